import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { type AllocationItem, frontierOf, lookUp, undominated } from "../../../compiler/allocate/frontier.ts";
import { greedyAllocation } from "../../../compiler/allocate/greedy.ts";
import { tiedFrontier } from "../../../compiler/allocate/ties.ts";
import { random } from "../../../ir/random.ts";

const WIDTHS = [2, 3, 4, 8];

const items = fc.array(
  fc.record({
    parameters: fc.integer({ min: 1, max: 6 }).map((n) => n * 64),
    losses: fc.array(fc.double({ min: 0, max: 5, noNaN: true }), {
      minLength: WIDTHS.length,
      maxLength: WIDTHS.length,
    }),
  }),
  { minLength: 1, maxLength: 5 },
).map((list) =>
  list.map(({ parameters, losses }, i): AllocationItem => ({
    site: `s${i}`,
    parameters,
    loss: Object.fromEntries(WIDTHS.map((width, k) => [width, losses[k] ?? 0])),
  }))
);

/** Least loss of all allocations within a budget of mean bits. */
function bruteForce(list: readonly AllocationItem[], budget: number): number {
  const total = list.reduce((sum, { parameters }) => sum + parameters, 0);
  let best = Infinity;
  const walk = (i: number, bits: number, loss: number): void => {
    const item = list[i];
    if (!item) {
      if (bits / total <= budget + 1e-9) best = Math.min(best, loss);
      return;
    }
    for (const width of WIDTHS) walk(i + 1, bits + width * item.parameters, loss + (item.loss[width] ?? 0));
  };
  walk(0, 0, 0);
  return best;
}

Deno.test("frontierOf() finds the least loss of every budget", () => {
  fc.assert(
    fc.property(items, fc.double({ min: 2, max: 8, noNaN: true }), (list, raw) => {
      const budget = Math.round(raw * 100) / 100, found = lookUp(frontierOf(list), budget);
      assert((found?.meanBits ?? Infinity) <= budget + 1e-9);
      assert(Math.abs((found?.loss ?? NaN) - bruteForce(list, budget)) < 1e-9);
    }),
    { numRuns: 60 },
  );
});

Deno.test("frontierOf() never has more loss at a larger budget, and reports the loss and bits of its widths", () => {
  fc.assert(
    fc.property(items, (list) => {
      const { points } = frontierOf(list), total = list.reduce((sum, { parameters }) => sum + parameters, 0);
      points.forEach(({ widths, loss, meanBits }, i) => {
        const digits = [...widths].map(Number);
        const sum = (of: (item: AllocationItem, width: number) => number) =>
          list.reduce((s, item, k) => s + of(item, digits[k] ?? 0), 0);
        assert(Math.abs(sum((item, width) => item.loss[width] ?? NaN) - loss) < 1e-9);
        assert(Math.abs(sum((item, width) => width * item.parameters) / total - meanBits) < 1e-9);
        assert(i === 0 || loss <= (points[i - 1]?.loss ?? Infinity));
      });
    }),
    { numRuns: 30 },
  );
});

Deno.test("tiedFrontier() can count sites instead of weights", () => {
  const list: AllocationItem[] = [
    { site: "large", parameters: 900, loss: { 2: 2, 4: 0 } },
    { site: "small", parameters: 100, loss: { 2: 1, 4: 0 } },
  ];
  assertEquals(lookUp(tiedFrontier(list, { weighting: "sites" }), 3)?.widths, "42");
  assertEquals(lookUp(tiedFrontier(list), 3)?.widths, "24");
  assertEquals(lookUp(tiedFrontier(list), 3.8)?.widths, "42");
});

Deno.test("lookUp() finds nothing below the lowest width", () => {
  assertEquals(lookUp(frontierOf([{ site: "s", parameters: 8, loss: { 2: 1, 3: 0 } }]), 1.9), undefined);
});

Deno.test("undominated() keeps points that no cheaper one beats, by rising bits and falling loss", () => {
  const point = (meanBits: number, loss: number) => ({ meanBits, loss, widths: `${meanBits}` });
  const kept = undominated([
    point(4, 0.2),
    point(2, 3),
    point(3, 0.5),
    point(2.5, 3.5),
    point(3.5, 0.6),
    point(3, 0.4),
  ]);
  assertEquals(kept.map(({ meanBits, loss }) => [meanBits, loss]), [[2, 3], [3, 0.4], [4, 0.2]]);
});

Deno.test("greedyAllocation() takes the step that saves most per bit, and never beats the knapsack", () => {
  const items: AllocationItem[] = [
    { site: "a", parameters: 1, loss: { 2: 10, 3: 4, 4: 3 } },
    { site: "b", parameters: 2, loss: { 2: 9, 3: 5, 4: 0 } },
  ];
  assertEquals(greedyAllocation(items, 2).widths, "22");
  assertEquals(greedyAllocation(items, 2.34).widths, "32");
  assertEquals(greedyAllocation(items, 4), { meanBits: 4, loss: 3, widths: "44" });
  for (let seed = 0; seed < 20; seed++) {
    const rng = random(seed, "greedy");
    const many = Array.from({ length: 6 }, (_, i): AllocationItem => {
      const scale = Math.exp(rng.normal());
      return { site: `${i}`, parameters: 1 + rng.int(4), loss: { 2: scale, 3: scale / 4, 4: scale / 16 } };
    });
    for (const budget of [2.25, 2.5, 3, 3.5]) {
      const greedy = greedyAllocation(many, budget), best = lookUp(frontierOf(many), budget);
      assert(greedy.meanBits <= budget + 1e-9 && greedy.loss >= (best?.loss ?? NaN) - 1e-9);
    }
  }
});
