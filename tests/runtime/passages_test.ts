import { assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { localFolder } from "../../compiler/frontends/source.ts";
import { openTokenizer } from "../../compiler/frontends/tokenizer.ts";
import { continuationOf, windowsOf } from "../../runtime/passages.ts";

Deno.test("windowsOf() predicts every token but the first exactly once, with overlap as context", () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 2, max: 60 }),
      fc.integer({ min: 2, max: 20 }),
      fc.integer({ min: 1, max: 19 }),
      (length, window, step) => {
        const stride = Math.min(step, window - 1), ids = Int32Array.from({ length }, (_, i) => i);
        const predicted = windowsOf(ids, window, stride).flatMap(({ ids, from }) => [...ids.slice(from)]);
        assertEquals(predicted, [...ids.slice(1)]);
      },
    ),
  );
});

Deno.test("windowsOf() without overlap leaves out the first token of every window", () => {
  const ids = Int32Array.from({ length: 10 }, (_, i) => i);
  const windows = windowsOf(ids, 4, 4).map(({ ids, from }) => [[...ids], from]);
  assertEquals(windows, [[[0, 1, 2, 3], 1], [[4, 5, 6, 7], 1], [[8, 9], 1]]);
  assertThrows(() => windowsOf(ids, 4, 5), RangeError, "Expected a window of 2 or more and a stride within it");
});

Deno.test("continuationOf() keeps what the context alone has as context, and cuts from the left", async () => {
  const tokenizer = await openTokenizer(
    await localFolder(new URL("../../examples/models/world", import.meta.url).pathname),
  );
  const context = "Emil took the red",
    whole = tokenizer.encode(`${context} drum`),
    first = tokenizer.encode(context).length;
  const { ids, from } = continuationOf(tokenizer, context, " drum", 100);
  assertEquals([[...ids], from], [whole, first]);
  // A space at the end of the context belongs to the continuation.
  assertEquals(continuationOf(tokenizer, `${context} `, "drum", 100), { ids, from });
  const cut = continuationOf(tokenizer, context, " drum", whole.length - 2);
  assertEquals([[...cut.ids], cut.from], [whole.slice(2), first - 2]);
  // Nothing but the continuation: what the tokenizer puts in front is the context.
  assertEquals(continuationOf(tokenizer, "", "drum", 100).from, 1);
});
