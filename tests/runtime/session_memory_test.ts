import { assert, assertEquals } from "@std/assert";
import { openWasm } from "../../backends/wasm/backend.ts";
import { createRunner } from "../../backends/runner.ts";
import { openArtifact } from "../../compiler/artifact/artifact.ts";
import type { DecoderConfig } from "../../compiler/frontends/config.ts";
import type { Folder } from "../../compiler/frontends/source.ts";
import type { Track } from "../../compiler/recipe.ts";
import { artifactSource } from "../../runtime/artifact_source.ts";
import { configurationOf } from "../../runtime/configuration.ts";
import { score } from "../../runtime/evaluate.ts";
import type { EvaluationMemory } from "../../runtime/evaluation_memory.ts";
import { openSession } from "../../runtime/session.ts";
import type { SequenceLength, SessionMemory } from "../../runtime/session_memory.ts";
import { VARIANTS } from "../support/random_decoder.ts";
import { tinyFolder } from "../support/tiny_artifact.ts";

const CONFIG: DecoderConfig = {
  ...VARIANTS["tied, grouped queries"],
  hiddenSize: 96,
  intermediateSize: 160,
  headDim: 24,
  vocabSize: 300,
  layers: 3,
  maxPositions: 1024,
};

/** What a session plans for a text of some length, and what it takes when the text has been generated. */
async function memoryOf(folder: Folder, precision: string, length: SequenceLength, resident = false) {
  await using backend = await openWasm({ threads: 1 });
  const reports: SessionMemory[] = [];
  await using session = await openSession({
    folder,
    backend,
    precision,
    length,
    resident,
    planned: (memory) => reports.push(memory),
  });
  const prompt = Int32Array.from({ length: length.prompt }, (_, i) => 1 + i % 16);
  await session.prefill(prompt);
  while (session.length < length.tokens) await session.decode(5);
  const taken = backend.memory?.();
  if (!taken || !session.memory) throw new Error("Expected the backend to count its memory, and a plan");
  assertEquals(reports, [session.memory]);
  return { planned: session.memory, taken: taken.allocated };
}

const folders = new Map<Track, Promise<Folder>>();
const folderOf = (track: Track): Promise<Folder> => {
  const folder = folders.get(track) ?? tinyFolder(track, CONFIG);
  folders.set(track, folder);
  return folder;
};

const LENGTHS: readonly SequenceLength[] = [
  { prompt: 3, tokens: 12 },
  { prompt: 60, tokens: 70 },
  { prompt: 300, tokens: 310 },
  { prompt: 600, tokens: 610 },
];
for (
  const [precision, track] of [["2", "weights"], ["4", "weights"], ["8", "weights"], ["16", "weights"], [
    "mixed@2.5",
    "weights",
  ], [
    "w4a4kv4",
    "activations",
  ], ["w8a8kv8", "activations"]] as const
) {
  Deno.test(`a session takes what it planned within 5 %: ${precision}, stories of different length`, async () => {
    for (const length of LENGTHS) {
      const { planned, taken } = await memoryOf(await folderOf(track), precision, length);
      assert(
        Math.abs(taken - planned.total) <= 0.05 * planned.total,
        `${length.tokens} tokens: planned ${planned.total}, taken ${taken}`,
      );
    }
  });
}

for (const [precision, track] of [["4", "weights"], ["w8a8kv8", "activations"]] as const) {
  Deno.test(`a session whose masters are resident takes what it planned within 5 %: ${precision}`, async () => {
    for (const length of LENGTHS.slice(0, 2)) {
      const { planned, taken } = await memoryOf(await folderOf(track), precision, length, true);
      assert(planned.resident > 0);
      assert(Math.abs(taken - planned.total) <= 0.05 * planned.total, `planned ${planned.total}, taken ${taken}`);
    }
  });
}

for (const [precision, track] of [["3", "weights"], ["w4a4kv4", "activations"]] as const) {
  Deno.test(`an evaluation takes what it planned within 5 %: ${precision}`, async () => {
    const artifact = await openArtifact(await folderOf(track));
    /** What scoring some texts plans and takes. */
    const memoryOfTexts = async (lengths: readonly number[]) => {
      await using backend = await openWasm({ threads: 1 });
      const source = artifactSource(artifact, createRunner(backend)), reports: EvaluationMemory[] = [];
      const scorer = (bits: string) => ({ source, config: configurationOf(source, bits) });
      await score({
        reference: scorer("16"),
        scorers: [scorer(precision)],
        sequences: lengths.map((length) => Int32Array.from({ length }, (_, i) => 1 + i * i % 16)),
        planned: (memory) => reports.push(memory),
      });
      assertEquals(reports.length, 1);
      return { planned: reports[0] as EvaluationMemory, taken: backend.memory?.().allocated ?? NaN };
    };
    for (const lengths of [[12, 60, 240, 256, 250, 5, 200, 128], [200, 512, 512, 300]]) {
      const { planned: { total }, taken } = await memoryOfTexts(lengths);
      assert(Math.abs(taken - total) <= 0.05 * total, `texts of ${lengths}: planned ${total}, taken ${taken}`);
    }
    // A single short text holds little but weights, and those of a call may lie behind the gap that another call's left; the rotary
    // tables of this small model leave one of 0.2 MiB.
    const { planned: { total, weights }, taken } = await memoryOfTexts([40]);
    assert(taken >= total && taken <= total + weights, `planned ${total}, taken ${taken}`);
  });
}
