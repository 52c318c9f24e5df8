import { assert, assertEquals } from "@std/assert";
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
import { type CountedBackend, openCountedGpu, openCountedWasm } from "../support/counted_memory.ts";
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
async function memoryOf(
  { backend, taken }: CountedBackend,
  folder: Folder,
  precision: string,
  length: SequenceLength,
  resident = false,
) {
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
  if (!session.memory) throw new Error("Expected a plan");
  assertEquals(reports, [session.memory]);
  return { planned: session.memory, taken: taken() };
}

/** What scoring some texts plans and takes. */
async function memoryOfTexts(
  { backend, taken }: CountedBackend,
  folder: Folder,
  precisions: readonly string[],
  lengths: readonly number[],
) {
  const source = artifactSource(await openArtifact(folder), createRunner(backend)), reports: EvaluationMemory[] = [];
  const scorers = precisions.map((bits) => ({ source, config: configurationOf(source, bits) })), [reference] = scorers;
  if (!reference) throw new RangeError("Expected a precision");
  await score({
    reference,
    scorers,
    sequences: lengths.map((length) => Int32Array.from({ length }, (_, i) => 1 + i * i % 16)),
    planned: (memory) => reports.push(memory),
  });
  assertEquals(reports.length, 1);
  return { planned: reports[0] as EvaluationMemory, taken: taken() };
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
      await using counted = await openCountedWasm();
      const { planned, taken } = await memoryOf(counted, await folderOf(track), precision, length);
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
      await using counted = await openCountedWasm();
      const { planned, taken } = await memoryOf(counted, await folderOf(track), precision, length, true);
      assert(planned.resident > 0);
      assert(Math.abs(taken - planned.total) <= 0.05 * planned.total, `planned ${planned.total}, taken ${taken}`);
    }
  });
}

/** Several texts, single ones from short to long, and more than a batch holds. */
const TEXTS = [[12, 60, 240, 256, 250, 5, 200, 128], [200, 512, 512, 300], [40], [200], [400], [512], [700], [
  ...Array.from({ length: 5 }, () => 1024),
]];
for (
  const [precisions, track] of [[["16", "3"], "weights"], [["16"], "weights"], [
    ["16", "w4a4kv4"],
    "activations",
  ], [["16"], "activations"]] as const
) {
  Deno.test(`an evaluation takes what it planned within 5 %: ${precisions} of ${track}`, async () => {
    for (const lengths of TEXTS) {
      await using counted = await openCountedWasm();
      const { planned, taken } = await memoryOfTexts(counted, await folderOf(track), precisions, lengths);
      const { weights, hidden, arena, scratch, gaps, total } = planned;
      assertEquals(total, weights + hidden + arena + scratch + gaps);
      assert(Math.abs(taken - total) <= 0.05 * total, `texts of ${lengths}: planned ${total}, taken ${taken}`);
    }
  });
}

for (const [precision, track] of [["4", "weights"], ["w4a4kv4", "activations"]] as const) {
  Deno.test(`on WebGPU a tiny model takes what was planned within 5 %: ${precision}`, async () => {
    const folder = await folderOf(track);
    for (const length of [{ prompt: 1, tokens: 12 }, { prompt: 60, tokens: 70 }]) {
      await using counted = await openCountedGpu();
      if (!counted) return;
      const { planned: { total }, taken } = await memoryOf(counted, folder, precision, length);
      assert(Math.abs(taken - total) <= 0.05 * total, `${length.tokens} tokens: planned ${total}, taken ${taken}`);
    }
    for (const lengths of [[40], [256], [700], [12, 60, 240, 200]]) {
      await using counted = await openCountedGpu();
      if (!counted) return;
      const { planned: { total }, taken } = await memoryOfTexts(counted, folder, ["16", precision], lengths);
      assert(Math.abs(taken - total) <= 0.05 * total, `texts of ${lengths}: planned ${total}, taken ${taken}`);
    }
  });
}
