"""A straightforward generator of the same problems: objects, dictionaries, one random stream. Only for comparison.

It follows section 1 of the construction step by step as one would write it down (draw, build a graph of objects, walk
it, write English, hash the template, look the tokens up), with the same laws as `synth.draw.problems`, kept operations
included. No trick is left out on purpose; none is put in either.
"""

import hashlib
import math
import random
import re
import string
from itertools import pairwise

from synth.world.vocabulary import World

TRAIN = range(17)


class Parameter:
    """An instance parameter (layer, owner, child) or an abstract one (layer, owner, target)."""

    def __init__(self, name, level=0):
        self.name, self.level = name, level  # level 0: instance
        self.terms, self.constant, self.times, self.minus = [], None, False, False

    def operands(self):
        return {factor for term in self.terms for factor in term}

    def operations(self):
        return max(1, sum(map(len, self.terms)) - 1)

    def ancestors(self, found=None):
        """Itself and all it needs."""
        found = set() if found is None else found
        found.add(self)
        for p in self.operands():
            if p not in found:
                p.ancestors(found)
        return found

    def value(self, known, modulus):
        if self not in known:
            each = [math.prod(p.value(known, modulus) for p in term) for term in self.terms]
            total = each[0] - each[1] if self.minus else sum(each)
            if self.constant is not None:
                total = total * self.constant if self.times else total + self.constant
            known[self] = total % modulus
        return known[self]


def size(rng, relative):
    return rng.choices((2, 3, 4), [math.exp(-((relative - x) ** 2)) for x in (0.2, 0.5, 0.8)])[0]


def structure(rng, edges, depth, low, high, world: World):
    """(instances, abstracts) of a fresh structure graph, with names."""
    widths, grow = [low] * depth, rng.random()
    while True:
        most = sum(a * b for a, b in pairwise(widths))
        if most >= edges and (sum(widths[1:]) == edges or rng.random() >= grow):
            break
        room = [i for i in range(depth) if widths[i] < high]
        if not room:
            break
        widths[rng.choice(room)] += 1
    group, top = rng.randrange(len(world.pool)), rng.randrange(5 - depth)
    items, categories = [], []
    for i in range(depth):
        names = rng.choice(list(world.pool[group, top + i]))
        items.append([world.vocabulary[t].strip() for t in rng.sample(list(names), widths[i])])
        categories.append(world.vocabulary[world.categories[group, top + i]].strip())
    pairs = {(i - 1, rng.randrange(widths[i - 1]), k) for i in range(1, depth) for k in range(widths[i])}
    every = [(i, j, k) for i in range(depth - 1) for j in range(widths[i]) for k in range(widths[i + 1])]
    pairs |= set(rng.sample([x for x in every if x not in pairs], max(0, min(edges, len(every)) - len(pairs))))
    instances = {x: Parameter(f"{items[x[0]][x[1]]}'s {items[x[0] + 1][x[2]]}") for x in sorted(pairs)}
    abstracts = {}
    for target in range(1, depth):
        for i in range(target - 1, -1, -1):
            for j in range(widths[i]):
                p = abstracts[i, j, target] = Parameter(f"{items[i][j]}'s {categories[target]}", target - i)
                for k in range(widths[i + 1]):
                    if (i, j, k) in instances:
                        below = [abstracts[i + 1, k, target]] if target > i + 1 else []
                        p.terms.append([instances[i, j, k], *below])
    return list(instances.values()), list(abstracts.values())


def needed_set(rng, instances, abstracts, n, m, depth):
    """Step A."""
    needed = set()
    while True:
        best = None
        for level in range(1, depth):
            left = [p for p in abstracts if p.level == level and p not in needed]
            if left:
                p = rng.choice(left)
                trial = needed | p.ancestors()
                if sum(q.operations() for q in trial) > n:
                    break
                best = trial
        if best is None:
            break
        needed = best
    left = [p for p in instances if p not in needed]
    rng.shuffle(left)
    while left and sum(p.operations() for p in needed) < m:
        needed = needed | {left.pop()}
    return needed


def order(rng, needed, instances, abstracts):
    """Step B: (parameters in order, query last; required dependency of some) or None."""
    p0, g = rng.random(), abs(rng.gauss(0, 1))
    unplaced = [p for p in (*instances, *abstracts) if p in needed]
    topo, inward, into = [], {}, set()

    def biased(pool):
        return rng.choices(pool, [math.exp(g * ((p.level > 0) + (p not in into))) for p in pool])[0]

    x = rng.choice([p for p in unplaced if not any(p in q.operands() for q in unplaced)])
    while True:
        topo.insert(0, x)
        unplaced.remove(x)
        if not unplaced:
            return topo, inward
        into |= x.operands()
        free = [p for p in unplaced if not any(p in q.operands() for q in unplaced)]
        y = None
        if not any(p in into for p in free):
            if x.level:
                return None
            y = biased(free)
        elif not x.level and rng.random() < p0:
            y = biased(unplaced)
        if y is not None:
            inward[x] = y
            into.add(y)
        x = rng.choice([p for p in free if p in into])


def express(rng, p, chosen, number, modulus):
    rng.shuffle(chosen)
    p.terms = [[q] for q in chosen]
    p.minus = len(chosen) == 2 and rng.random() < 0.5
    if number:
        p.times = bool(chosen) and rng.random() < 0.5
        p.constant = rng.randrange(1 if p.times else 0, modulus)


def operations_and_dependencies(rng, topo, inward, wanted, modulus):
    """Step C; False when the operations cannot be reached."""
    ops = {p: p.operations() for p in topo}
    while sum(ops.values()) < wanted:
        room = [p for i, p in enumerate(topo) if not p.level and ops[p] < min(3, max(1, i))]
        if not room:
            return False
        ops[rng.choice(room)] += 1
    for i, p in enumerate(topo):
        if p.level:
            continue
        pool = [None, *topo[:i]]  # None: the random number
        k = min(rng.randint(1, 2) if ops[p] == 1 else ops[p] + 1, len(pool), 4)
        chosen = []
        if k == len(pool):
            chosen = pool
        else:
            if p in inward:
                chosen = [inward[p]]
                pool.remove(inward[p])
            if k > len(chosen) and rng.random() < 0.5:
                chosen.append(None)
                pool.remove(None)
            chosen = chosen + rng.sample(pool, k - len(chosen))
        express(rng, p, [q for q in chosen if q is not None], None in chosen, modulus)
    return True


def unneeded(rng, instances, abstracts, needed, modulus):
    """Step D."""
    placed, independent = [p for p in instances if p in needed], []
    left = [p for p in instances if p not in needed]
    rng.shuffle(left)
    for p in left:
        alone = rng.random() < 0.5
        inside = set(placed)
        computable = [q for q in abstracts if all(r.level or r in inside for r in structural(q))]
        pool = list(independent) if alone else placed + computable
        k = 1
        while k < min(4, len(pool) + 1) and rng.random() < 0.5:
            k += 1
        number = k == len(pool) + 1 or rng.random() < 0.5
        express(rng, p, rng.sample(pool, k - number), number, modulus)
        placed.append(p)
        if alone:
            independent.append(p)


def structural(q):
    """What the structure alone makes an abstract parameter need."""
    found = {q}
    for p in q.operands():
        found |= structural(p) if p.level else {p}
    return found


def english(rng, p, letter, known, modulus):
    """The solution sentence of p; gives it and its intermediates letters."""
    clauses = []

    def fresh():
        unused = [c for c in string.ascii_letters if c not in letter.values()]
        return rng.choice(unused or [c + c for c in string.ascii_letters if c + c not in letter.values()])

    def clause(a, sign, b):
        name = letter[object()] = fresh()
        value = {"+": a[1] + b[1], "-": a[1] - b[1], "*": a[1] * b[1]}[sign] % modulus
        clauses.append(f"{a[0]} {sign} {b[0]} = {a[1]} {sign} {b[1]} = {value}")
        clauses[-1] = f"{name} = {clauses[-1]}"
        return name, value

    parts = None
    for term in p.terms:
        factors = [(letter[q], known[q]) for q in term]
        part = factors[0] if len(factors) == 1 else clause(factors[0], "*", factors[1])
        parts = part if parts is None else clause(parts, "-" if p.minus else "+", part)
    if p.constant is not None and parts is not None:
        parts = clause((str(p.constant), p.constant), "*" if p.times else "+", parts)
    if not clauses:
        letter[p] = fresh()
        clauses.append(f"{letter[p]} = {known[p]}" if parts is None else f"{letter[p]} = {parts[0]} = {known[p]}")
    else:
        letter[p] = parts[0]
    clauses[-1] = "so " + clauses[-1]
    return f" Define {p.name} as {letter[p]}; {'; '.join(clauses)}."


def sentence(p):
    each = [f"each {t[0].name}" for t in p.terms]
    listed = each[0] if len(each) == 1 else ", ".join(each[:-1]) + f" and {each[-1]}" if each else ""
    if len(each) > 1:
        listed = f"the {'difference' if p.minus else 'sum'} of {listed}"
    if p.constant is not None:
        listed = f"{p.constant} {'times as much as' if p.times else 'more than'} {listed}" if each else str(p.constant)
    return f" The number of each {p.name} equals {listed}."


def template_bin(text, abstract_names):
    """SHA-256 of the solution with names, numbers and letters replaced, modulo 23."""
    names = {"so": "so", "0": "0"}
    out = []
    for name, rest in re.findall(r" Define ([^.;]+?) as ([^.]*)\.", text):
        rest = re.sub(r"\d+", "0", rest).replace(";", ".")
        rest = re.sub(r"\w+", lambda m: names.setdefault(m[0], string.ascii_letters[(len(names) - 2) % 52]), rest)
        out.append(f" Define {'Inter' if name in abstract_names else 'Inst'} as {rest}.")
    return int(hashlib.sha256("".join(out).encode()).hexdigest(), 16) % 23


def generate(rng: random.Random, spec, world: World, exact: bool) -> tuple[str, str, list[int]]:
    """(problem, solution, tokens) of one train problem."""
    wanted = spec.ops if exact else min(rng.randint(1, spec.ops), rng.randint(1, spec.ops))
    while True:
        relative = (wanted - 1) / (spec.edges - 1)
        n = max(rng.randint(1, wanted), rng.randint(1, wanted))
        m = rng.randint(n, wanted)
        depth, sizes = size(rng, relative), sorted((size(rng, relative), size(rng, relative)))
        fewest = (depth - 1) * sizes[0]
        edges = min(*(rng.randint(fewest, spec.edges) for _ in range(2)), (depth - 1) * sizes[1] ** 2)
        found = None
        for _ in range(1000 if wanted <= 32 else 100):  # structures, before the hyper-parameters are redrawn
            instances, abstracts = structure(rng, edges, depth, *sizes, world)
            ceiling = sum(p.operations() for p in (*instances, *abstracts))
            needed = needed_set(rng, instances, abstracts, min(n, ceiling), m, depth)
            if found := order(rng, needed, instances, abstracts):
                break
        if found is None:
            continue
        topo, inward = found
        if not operations_and_dependencies(rng, topo, inward, wanted, spec.modulus):
            continue
        unneeded(rng, instances, abstracts, needed, spec.modulus)
        known, letter = {}, {}
        for p in (*instances, *abstracts):
            p.value(known, spec.modulus)
        solution, done = "", set()
        while len(done) < len(topo):  # solution order redrawn step by step
            p = rng.choice([p for p in topo if p not in done and p.operands() <= done])
            solution += english(rng, p, letter, known, spec.modulus)
            done.add(p)
        if template_bin(solution, {p.name for p in abstracts}) not in TRAIN:
            continue
        rng.shuffle(instances)
        owner, thing = topo[-1].name.split("'s ", 1)
        problem = "".join(map(sentence, instances)) + f" How many {thing} does {owner} have?"
        return problem, solution, world.encode(problem) + world.encode(solution)
