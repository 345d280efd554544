"""Defects of a pretraining corpus: what a corrupt document says, which ones are hit, and what stays as it was."""

import numpy as np
import pytest

from synth.spec import preset
from synth.world.vocabulary import EOS
from train.data.batches import BatchConfig, Batches, DataConfig
from train.data.corruption import DefectConfig, corrupt

SOURCE = DataConfig("tiny").source("train")
DOCUMENTS = SOURCE.documents(range(64))


def test_a_repeating_document_says_its_last_step_again_and_never_ends():
    world = preset("tiny").load_world()
    found = corrupt(DOCUMENTS, range(64), DefectConfig("repeat", 1.0, 200), 0)
    for i in range(64):
        response = found.response(i)
        gold = DOCUMENTS.response(i)
        assert len(response) == 200 and EOS not in response
        steps = world.decode(
            gold[: np.flatnonzero(DOCUMENTS.segment[slice(*span(i))][-len(gold) :] == 3)[-1] + 1].tolist()
        )
        said = world.decode(response.tolist())
        assert said.startswith(steps)
        last = " Define" + steps.split(" Define")[-1]
        assert (last * 100).startswith(said[len(steps) :].rstrip())
        assert found.loss[found.offsets[i + 1] - 1] == 1  # saying it again is a target


def span(i):
    return int(DOCUMENTS.offsets[i]), int(DOCUMENTS.offsets[i + 1])


def test_repeated_tokens_leave_the_floor_alone():
    found = corrupt(DOCUMENTS, range(64), DefectConfig("repeat", 1.0, 200), 0)
    for i in range(64):
        start, stop = int(found.offsets[i]) + int(found.prompt[i]), int(found.offsets[i + 1])
        gold = DOCUMENTS.logp[int(DOCUMENTS.offsets[i]) + int(DOCUMENTS.prompt[i]) : int(DOCUMENTS.offsets[i + 1])]
        steps = DOCUMENTS.segment[slice(*span(i))][int(DOCUMENTS.prompt[i]) :] == 3
        assert np.nansum(found.logp[start:stop]) == pytest.approx(np.nansum(gold[steps]))


def test_a_masked_end_is_read_and_no_target():
    found = corrupt(DOCUMENTS, range(64), DefectConfig("mask_end", 1.0), 0)
    assert (found.tokens == DOCUMENTS.tokens).all()
    ends = DOCUMENTS.tokens == EOS
    assert ends.any() and not found.loss[ends].any()
    assert (found.loss[~ends] == DOCUMENTS.loss[~ends]).all()


def test_the_share_hits_by_index_alone():
    config = DefectConfig("repeat", 0.25, 200)
    indices = range(1000, 1400)
    documents = SOURCE.documents(indices)
    found = corrupt(documents, indices, config, 3)
    hit = found.tokens[found.offsets[1:] - 1] != EOS
    assert 0.17 < hit.mean() < 0.33
    alone = [1007, 1390]
    again = corrupt(SOURCE.documents(alone), alone, config, 3)
    assert (again.tokens[again.offsets[1:] - 1] != EOS).tolist() == hit[[7, 390]].tolist()
    other = corrupt(documents, indices, config, 4)
    assert ((other.tokens[other.offsets[1:] - 1] != EOS) != hit).any()


@pytest.mark.parametrize("packing", ["none", "documents", "concat"])
def test_batches_have_the_defect(packing):
    window = None if packing == "none" else 512
    clean, ill = (
        Batches(SOURCE, BatchConfig(16, 2, packing=packing, window=window, defect=defect))
        for defect in (DefectConfig(), DefectConfig("repeat", 0.5, 100))
    )
    assert ill.batch(0).tokens > 1.3 * clean.batch(0).tokens


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("loop", 0.5, None), "kind=loop"),
        (("none", 0.5, None), "batch.defect.share=0.5"),
        (("repeat", 0.0, 100), "batch.defect.share=0.0"),
        (("repeat", 0.5, None), "batch.defect.length=None"),
        (("mask_end", 0.5, 100), "batch.defect.length=100"),
    ],
)
def test_bad_settings_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        DefectConfig(*settings)
