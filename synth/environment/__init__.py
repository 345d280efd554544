"""The world as an environment for any language model: problems as prompts, rewards for answers and for steps.

    from synth.environment.tasks import environment
    tasks = environment("med", ops=8, seed=0, examples=2)
    task = tasks[0]                        # task.prompt for a chat model, task.answer, task.completion
    tasks.score(task, "... Answer: 15")    # answer and steps, each from 0 to 1

Adapters to other libraries, each imported only when it is asked for: TRL (`trl_adapter`), reasoning-gym, verifiers,
lm-evaluation-harness.
"""
