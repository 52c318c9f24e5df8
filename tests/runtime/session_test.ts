import { assert, assertEquals } from "@std/assert";
import { configOf, parseBitSpec } from "../../compiler/bit_spec.ts";
import { memoryFolder } from "../../compiler/frontends/source.ts";
import { artifactBytes } from "../../compiler/artifact/artifact.ts";
import { modelSites } from "../../compiler/model_sites.ts";
import { mostLikely } from "../../runtime/generate.ts";
import { openSession } from "../../runtime/session.ts";
import type { BitConfig } from "../../ir/sites.ts";
import { BACKENDS } from "../support/backends.ts";
import { trueLogits, type Truth } from "../support/elastic_truth.ts";
import { randomParameters, VARIANTS } from "../support/random_decoder.ts";
import { maxDifference } from "../support/run_module.ts";
import { tinyArtifactParts, tinyFolder } from "../support/tiny_artifact.ts";
import { assertUserError } from "../compiler/frontends/fixtures.ts";
import type { Track } from "../../compiler/recipe.ts";

const IDS = [1, 9, 4, 4, 16, 7, 2, 11, 5, 13, 8, 3];

async function open(track: Track, config = VARIANTS["tied, grouped queries"]) {
  const parts = await tinyArtifactParts(track, config);
  const truth: Truth = { ...parts, load: randomParameters(7) };
  const bytes = await artifactBytes(parts.description, parts.tensors);
  return {
    truth,
    folder: memoryFolder("tiny", new Map([["model.safetensors", bytes]])),
    sites: modelSites(parts.description.module),
  };
}

for (const [name, openBackend] of Object.entries(BACKENDS)) {
  Deno.test(`session on ${name}: prefill and decode give the logits of the full forward at every configuration`, async () => {
    await using backend = await openBackend();
    for (
      const [track, texts] of [
        ["weights", ["16", "8", "3", "2", "mixed@2.5"]],
        ["activations", ["w8a8", "w4a4", "w4a4kv4", "w16kv2"]],
      ] as const
    ) {
      const { truth, folder, sites } = await open(track);
      for (const text of texts) {
        const config = configOf(parseBitSpec(text), sites, truth.description.frontier);
        const expected = await trueLogits(truth, config, IDS);
        await using session = await openSession({ folder, backend, precision: text });
        assert(maxDifference(await session.prefill(IDS.slice(0, 5)), expected[4] ?? []) < 1e-4, `${text}, prefill`);
        for (let t = 5; t < IDS.length; t++) {
          const logits = await session.decode(IDS[t] ?? 0);
          assert(maxDifference(logits, expected[t] ?? []) < 1e-4, `${text}, token ${t}`);
        }
      }
    }
  });

  Deno.test(`session on ${name}: the greedy text is that of full forwards, and goes on in the same cache`, async () => {
    await using backend = await openBackend();
    const { truth, folder, sites } = await open("activations", VARIANTS["all biases, width 20"]);
    const config = configOf(parseBitSpec("w4a4kv4"), sites), expected: number[] = [];
    for (const _ of IDS) expected.push(mostLikely((await trueLogits(truth, config, [5, 6, ...expected])).at(-1) ?? []));
    await using session = await openSession({ folder, backend, precision: "w4a4kv4" });
    const first = await Array.fromAsync(session.generate([5, 6], { maxTokens: 7 }));
    const rest = await Array.fromAsync(session.generate(first.slice(-1), { maxTokens: 5 }));
    assertEquals([...first, ...rest], expected);
    session.clear();
    assertEquals(session.length, 0);
    const stop = expected.findIndex((id, i) => i > 0 && !expected.slice(0, i).includes(id));
    const ids = await Array.fromAsync(session.generate([5, 6], { maxTokens: 12, stop: [expected[stop] ?? -1] }));
    assertEquals(ids, stop < 0 ? expected : expected.slice(0, stop));
  });

  Deno.test(`session on ${name}: use() switches between two tokens and keeps the cache`, async () => {
    await using backend = await openBackend();
    const { folder } = await open("activations");
    // What a switch must give: the tokens before it at the old precision, those after it at the new one, on one cache.
    const switching = await openSession({ folder, backend, precision: "w8a8kv4" });
    await switching.prefill(IDS.slice(0, 6));
    const fresh = await openSession({ folder, backend, precision: "w8a8kv4" });
    await fresh.prefill(IDS.slice(0, 6));
    const stayed = await fresh.decode(IDS[6] ?? 0);
    await switching.use("w4a4kv4");
    assertEquals(switching.length, 6);
    const switched = await switching.decode(IDS[6] ?? 0);
    assert(maxDifference(switched, stayed) > 1e-3, "4 bits differ from 8");
    await switching.use("w8a8kv4");
    const again = await switching.decode(IDS[7] ?? 0), unswitched = await fresh.decode(IDS[7] ?? 0);
    // One token was written at 4 bits, everything else is the same.
    const difference = maxDifference(again, unswitched);
    assert(difference > 0 && difference < maxDifference(switched, stayed) * 10, "the cache was kept");
    await switching[Symbol.asyncDispose]();
    await fresh[Symbol.asyncDispose]();
  });
}
