import { assert, assertAlmostEquals, assertEquals } from "@std/assert";
import { createRunner } from "../../backends/runner.ts";
import { artifactBytes, openArtifact } from "../../compiler/artifact/artifact.ts";
import { decoderModule } from "../../compiler/frontends/decoder.ts";
import { memoryFolder } from "../../compiler/frontends/source.ts";
import type { Track } from "../../compiler/recipe.ts";
import { artifactSource } from "../../runtime/artifact_source.ts";
import { preparedSource } from "../../runtime/checkpoint_source.ts";
import { configurationOf } from "../../runtime/configuration.ts";
import { type Score, score } from "../../runtime/evaluate.ts";
import { BACKENDS } from "../support/backends.ts";
import { countingBackend } from "../support/counting_backend.ts";
import { trueLogits, type Truth } from "../support/elastic_truth.ts";
import { randomParameters, VARIANTS } from "../support/random_decoder.ts";
import { runModule, tokenInputs } from "../support/run_module.ts";
import { tinyArtifactParts, tinyRecipe } from "../support/tiny_artifact.ts";

const CONFIG = { ...VARIANTS["tied, grouped queries"], maxPositions: 160 };
/** Lengths on both sides of a bucket's end; a single token predicts nothing. */
const SEQUENCES = [12, 2, 70, 64, 1, 65, 5].map((length, row) =>
  Int32Array.from({ length }, (_, i) => (3 + row * 5 + i * i) % 17)
);

async function open(track: Track): Promise<{ truth: Truth; bytes: Uint8Array<ArrayBuffer> }> {
  const parts = await tinyArtifactParts(track, CONFIG);
  return {
    truth: { ...parts, load: randomParameters(7) },
    bytes: await artifactBytes(parts.description, parts.tensors),
  };
}

const openBytes = (bytes: Uint8Array<ArrayBuffer>) =>
  openArtifact(memoryFolder("tiny", new Map([["model.safetensors", bytes]])));

type Logits = (ids: readonly number[]) => Promise<readonly Float64Array[]>;

/** Mean loss and divergence of all predicted tokens, the straightforward way and in double precision. */
async function trueScore(
  model: Logits,
  reference: Logits,
): Promise<{ perplexity: number; kl: number; perplexityError: number; tokens: number }> {
  let loss = 0, kl = 0, tokens = 0;
  const texts: { loss: number; original: number; tokens: number }[] = [];
  for (const ids of SEQUENCES.map((sequence) => [...sequence])) {
    const [own, original] = [await model(ids), await reference(ids)],
      text = { loss: 0, original: 0, tokens: ids.length - 1 };
    if (text.tokens > 0) texts.push(text);
    for (let t = 0; t + 1 < ids.length; t++) {
      const p = logSoftmax(own[t] ?? []), q = logSoftmax(original[t] ?? []);
      const next = ids[t + 1] ?? 0;
      loss -= p[next] ?? NaN;
      text.loss -= p[next] ?? NaN;
      text.original -= q[next] ?? NaN;
      kl += q.reduce((sum, value, v) => sum + Math.exp(value) * (value - (p[v] ?? NaN)), 0);
      tokens++;
    }
  }
  // The standard error of a mean of what each text adds to the distance: by how much it falls as the text's weight does.
  const distance = (weights: readonly number[]) => {
    const sum = (of: (text: typeof texts[number]) => number) =>
      texts.reduce((total, text, i) => total + (weights[i] ?? 0) * of(text), 0);
    const all = sum((text) => text.tokens);
    return Math.exp(sum((text) => text.loss) / all) - Math.exp(sum((text) => text.original) / all);
  };
  const ones = texts.map(() => 1), n = texts.length, step = 1e-5;
  const shares = texts.map((_, i) =>
    (distance(ones.with(i, 1 + step)) - distance(ones.with(i, 1 - step))) / (2 * step)
  );
  const perplexityError = Math.sqrt(n / (n - 1) * shares.reduce((sum, share) => sum + share ** 2, 0));
  return { perplexity: Math.exp(loss / tokens), kl: kl / tokens, perplexityError, tokens };
}

function logSoftmax(logits: ArrayLike<number>): number[] {
  const values = Array.from(logits), top = Math.max(...values);
  const total = Math.log(values.reduce((sum, x) => sum + Math.exp(x - top), 0));
  return values.map((x) => x - top - total);
}

for (const [name, openBackend] of Object.entries(BACKENDS)) {
  Deno.test(`score() on ${name} equals the straightforward computation at every configuration`, async () => {
    await using inner = await openBackend();
    // Of the thousands of activations in these texts one or another lies on a rounding tie, where two orders of adding rightly part: at
    // 8 bits that is a small step.
    for (const [track, texts] of [["weights", ["16", "2", "mixed@2.5"]], ["activations", ["8", "w8a8kv8"]]] as const) {
      const { backend, alive } = countingBackend(inner), { truth, bytes } = await open(track);
      const source = artifactSource(await openBytes(bytes), createRunner(backend));
      const full = configurationOf(source, "16"), configs = texts.map((text) => configurationOf(source, text));
      const reference = { source, config: full }, scorers = configs.map((config) => ({ source, config }));
      const reported: number[] = [];
      const scores = await score({ reference, scorers, sequences: SEQUENCES, report: (_, i) => reported.push(i) });
      assertEquals(alive.size, 0, "everything is freed");
      assertEquals(reported, texts.map((_, i) => i));
      for (const [i, config] of configs.entries()) {
        const logits: Logits = (ids) => trueLogits(truth, config, ids);
        const expected = await trueScore(logits, (ids) => trueLogits(truth, full, ids));
        const { perplexity, perplexityError, kl, tokens, seconds } = scores[i] as Score;
        assertEquals(tokens, expected.tokens);
        assertAlmostEquals(perplexity, expected.perplexity, 1e-4 * expected.perplexity, texts[i]);
        assertAlmostEquals(kl, expected.kl, 1e-5 + 1e-3 * expected.kl, texts[i]);
        assertAlmostEquals(perplexityError, expected.perplexityError, 1e-4 + 1e-3 * expected.perplexityError, texts[i]);
        assert(seconds > 0);
      }
    }
  });

  Deno.test(`score() on ${name} does not depend on how many tokens are in memory`, async () => {
    await using inner = await openBackend();
    const { backend, alive } = countingBackend(inner), { bytes } = await open("weights");
    const source = artifactSource(await openBytes(bytes), createRunner(backend));
    const reference = { source, config: configurationOf(source, "16") },
      scorers = [reference, { source, config: configurationOf(source, "3") }];
    const whole = await score({ reference, scorers, sequences: SEQUENCES });
    const waves = await score({ reference, scorers, sequences: SEQUENCES, waveTokens: 64 });
    assertEquals(alive.size, 0);
    assertEquals(waves.map(({ seconds: _, ...rest }) => rest), whole.map(({ seconds: _, ...rest }) => rest));
    assertEquals(whole[0]?.kl, 0, "a model does not diverge from itself");
    assert((whole[1]?.kl ?? 0) > 1e-3);
  });

  Deno.test(`score() on ${name}: a checkpoint at 16 bits is full precision, and what its artifact diverges from`, async () => {
    await using backend = await openBackend();
    const load = randomParameters(7), module = decoderModule(CONFIG), runner = createRunner(backend);
    const logits: Logits = async (ids) => {
      const { logits = new Float64Array() } = await runModule(module, tokenInputs(ids), load);
      return ids.map((_, t) => logits.slice(t * CONFIG.vocabSize, (t + 1) * CONFIG.vocabSize));
    };
    for (const track of ["weights", "activations"] as const) {
      const source = preparedSource(runner, {
        name: "random",
        module,
        recipe: tinyRecipe(track),
        contextLimit: CONFIG.maxPositions,
        parameter: async (name, type) => Float32Array.from(await load(name, type)),
      });
      const { truth, bytes } = await open(track), artifact = artifactSource(await openBytes(bytes), runner);
      const full = { source, config: configurationOf(source, "16") },
        master = { source: artifact, config: configurationOf(artifact, "16") };
      const nearest = { source, config: configurationOf(source, "8") };
      const [exact, stored, rounded] = await score({
        reference: full,
        scorers: [full, master, nearest],
        sequences: SEQUENCES,
      });
      const expected = await trueScore(logits, logits);
      assertAlmostEquals(exact?.perplexity ?? NaN, expected.perplexity, 1e-4 * expected.perplexity);
      const expectedStored = await trueScore((ids) => trueLogits(truth, master.config, ids), logits);
      assertAlmostEquals(stored?.kl ?? NaN, expectedStored.kl, 1e-5 + 1e-3 * expectedStored.kl);
      assert((rounded?.kl ?? 0) > 1e-6 && (rounded?.kl ?? 1) < 0.05, `8 bits to nearest are near: ${rounded?.kl}`);
    }
  });
}
