import { assert, assertEquals } from "@std/assert";
import * as fc from "fast-check";
import { placeBarriers, type TouchingStep } from "../../../backends/wasm/barriers.ts";

const span = fc.record({
  space: fc.integer({ min: -1, max: 2 }),
  from: fc.integer({ min: 0, max: 20 }),
  length: fc.integer({ min: 1, max: 9 }),
})
  .map(({ space, from, length }) => ({ space, from, to: from + length }));
const step = fc.record({
  grid: fc.constantFrom(1, 1, 2, 3, 8),
  reads: fc.array(span, { maxLength: 2 }),
  writes: fc.array(span, { minLength: 1, maxLength: 2 }),
});

const touch = (a: TouchingStep, b: TouchingStep) =>
  a.writes.some((x) => [...b.reads, ...b.writes].some((y) => x.space === y.space && x.from < y.to && y.from < x.to));

Deno.test("placeBarriers() parts all steps that touch each other's memory on different threads", () => {
  fc.assert(fc.property(fc.array(step, { maxLength: 12 }), (steps) => {
    const barriers = placeBarriers(steps);
    // The pool drops barriers between neighbours of one chunk each.
    const kept = barriers.map((barrier, i) => barrier && !(steps[i]?.grid === 1 && steps[i + 1]?.grid === 1));
    steps.forEach((a, i) =>
      steps.slice(i + 1).forEach((b, j) => {
        const onOneThread = a.grid === 1 && b.grid === 1;
        if (onOneThread || !(touch(a, b) || touch(b, a))) return;
        assert(kept.slice(i, i + 1 + j).includes(true), `no barrier between steps ${i} and ${i + 1 + j}`);
      })
    );
  }));
});

Deno.test("placeBarriers() lets independent steps run on", () => {
  const independent = (space: number): TouchingStep => ({
    grid: 8,
    reads: [{ space: -1, from: 0, to: 8 }],
    writes: [{ space, from: 0, to: 1 }],
  });
  assertEquals(placeBarriers([independent(0), independent(1), independent(2), independent(1)]), [
    false,
    false,
    true,
    false,
  ]);
});
