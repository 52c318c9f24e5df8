import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { CHUNK, lengthBatches } from "../../runtime/length_batches.ts";
import { BUCKETS, piecesOf, stepInputs } from "../../runtime/prefill.ts";

Deno.test("lengthBatches() keeps every prediction of every sequence, in few shapes", () => {
  const lengths = fc.array(fc.integer({ min: 0, max: 1100 }), { maxLength: 40 });
  fc.assert(fc.property(lengths, (lengths) => {
    const sequences = lengths.map((length, s) => Int32Array.from({ length }, (_, i) => 1 + (s * 7 + i) % 91));
    const found: string[] = [], batches = lengthBatches(sequences);
    for (const { rows, tokens, ids, positions, next, predicts } of batches) {
      assert(tokens % CHUNK === 0 && rows >= 1 && rows <= 8 && (rows === 1 || rows * tokens <= 4096));
      for (let row = 0; row < rows; row++) {
        const from = row * tokens, count = predicts.subarray(from, from + tokens).lastIndexOf(1) + 1;
        for (let t = 0; t < tokens; t++) {
          assertEquals(positions[from + t], t);
          assertEquals(predicts[from + t], t < count ? 1 : 0);
          if (t + 1 < count) assertEquals(next[from + t], ids[from + t + 1]);
          if (t > count) assertEquals(ids[from + t], 0);
        }
        found.push([...ids.subarray(from, from + count), next[from + count - 1]].join());
      }
    }
    assertEquals(found.sort(), sequences.filter(({ length }) => length > 1).map((ids) => ids.join()).sort());
    assert(
      batches.filter(({ rows, tokens }) => rows < Math.min(8, Math.floor(4096 / tokens))).length <= 1,
      "one is not full",
    );
  }));
});

Deno.test("piecesOf() takes several pieces where one would be mostly padding, and one where it is not", () => {
  const buckets = (tokens: number) => piecesOf(tokens).map(({ bucket }) => bucket);
  assertEquals(buckets(256), [128, 128]);
  assertEquals(buckets(768), [512, 128, 128]);
  assertEquals(buckets(40), [32, 8]);
  assertEquals([buckets(1), buckets(3), buckets(30), buckets(100), buckets(500)], [[1], [8], [32], [128], [512]]);
});

Deno.test("piecesOf() covers a prompt with buckets, and padding stands outside of the cache", () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 2000 }), fc.nat(500), (tokens, past) => {
      const ids = Array.from({ length: tokens }, (_, i) => i + 1), seen: number[] = [], places: number[] = [];
      for (const piece of piecesOf(tokens)) {
        assert(BUCKETS.some((bucket) => bucket === piece.bucket));
        const { ids: own, positions } = stepInputs(ids, piece, past, 4096);
        assertEquals([own.length, positions.length], [piece.bucket, piece.bucket]);
        const count = piece.end - piece.start;
        seen.push(...own.subarray(0, count));
        places.push(...positions.subarray(0, count).map((position) => position + piece.start));
        assert(positions.subarray(count).every((position) => position === 4096));
      }
      assertEquals(seen, ids);
      assertEquals(places, ids.map((_, i) => past + i));
    }),
    { numRuns: 50 },
  );
});
