/** A model that one memory of the WebAssembly backend cannot hold decodes and switches as in one. */
import { assert, assertEquals } from "@std/assert";
import { openWasm } from "../../backends/wasm/backend.ts";
import type { DecoderConfig } from "../../compiler/frontends/config.ts";
import { createSession } from "../../runtime/session.ts";
import { randomSource, SEVEN_B } from "../bench/models/random_source.ts";

const CONFIG: DecoderConfig = {
  ...SEVEN_B,
  vocabSize: 500,
  hiddenSize: 512,
  intermediateSize: 1408,
  layers: 6,
  heads: 8,
  kvHeads: 4,
  headDim: 64,
  maxPositions: 256,
};

/** Logits of tokens at 4 bits, after a switch to 3, and back; and the bytes that the backend took. */
async function logitsOf(options: { readonly memoryBytes?: number; readonly threads?: number }) {
  await using backend = await openWasm(options);
  await using session = await createSession(randomSource(backend, CONFIG, "weights"), "4");
  const logits = [await session.prefill([1, 2, 3, 4, 5])];
  for (const precision of ["4", "3", "4"]) {
    await session.use(precision);
    for (let i = 0; i < 3; i++) logits.push(await session.decode(i + 7));
  }
  return { logits, taken: backend.memory?.()?.planned ?? 0 };
}

Deno.test("a model in several memories decodes and switches to the bit as in one", async () => {
  const whole = await logitsOf({}), memoryBytes = 2 ** 24;
  assert(whole.taken > 2 * memoryBytes, `${whole.taken} bytes`);
  for (const threads of [1, 2]) {
    const parts = await logitsOf({ memoryBytes, threads });
    assertEquals(parts.logits, whole.logits);
    // Each memory has room to work in, and its own peak.
    assert(parts.taken < 1.5 * whole.taken, `${parts.taken} bytes instead of ${whole.taken}`);
  }
});
