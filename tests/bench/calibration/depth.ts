/** What twice the depth costs: calibrations of the first blocks of a model, kernels compiled before. */
import type { Backend } from "../../../backends/backend.ts";
import { encodeSafetensors } from "../../../compiler/artifact/safetensors_writer.ts";
import type { TextData } from "../../../compiler/frontends/dataset.ts";
import { openSafetensors } from "../../../compiler/frontends/safetensors.ts";
import { type ByteSource, type Folder, memoryFolder } from "../../../compiler/frontends/source.ts";
import { compileModel } from "../../../runtime/compile_model.ts";
import { medianOf } from "../report.ts";

/** Seconds of calibrations at some numbers of blocks, in the order asked for. */
export interface DepthBench {
  readonly backend: Backend;
  readonly folder: Folder;
  readonly texts: TextData;
  readonly depths: readonly number[];
  readonly repeats: number;
}

const SEQUENCES = 32;
const FILES = ["config.json", "tokenizer.json", "tokenizer_config.json"];

/** A safetensors file without the tensors of later layers. */
async function firstTensors(source: ByteSource, layers: number): Promise<Uint8Array> {
  const { tensors, bytes } = await openSafetensors(source);
  const kept = [...tensors.values()].filter(({ name }) => Number(/\.layers\.(\d+)\./.exec(name)?.[1] ?? 0) < layers);
  const parts = await Array.fromAsync(encodeSafetensors(kept.map((tensor) => ({
    ...tensor,
    data: () => bytes(tensor.name),
  }))));
  return new Uint8Array(await new Blob(parts as Uint8Array<ArrayBuffer>[]).arrayBuffer());
}

/** The model's first layers as a model. */
async function firstLayers(folder: Folder, layers: number): Promise<Folder> {
  const files = await Promise.all(FILES.map(async (file) => [file, await folder.read(file)] as const));
  const contents = new Map<string, Uint8Array>(files);
  const config = JSON.parse(new TextDecoder().decode(contents.get("config.json")));
  contents.set("config.json", new TextEncoder().encode(JSON.stringify({ ...config, num_hidden_layers: layers })));
  contents.set("model.safetensors", await firstTensors(await folder.open("model.safetensors"), layers));
  return memoryFolder(`${folder.name}, ${layers} layers`, contents);
}

/** Thrown where the calibration ends: what comes after it is not wanted. */
class Calibrated extends Error {}

async function secondsOf(model: Folder, backend: Backend, texts: TextData): Promise<number> {
  let start = NaN, seconds = NaN;
  try {
    await compileModel({
      model,
      backend,
      calibration: { ...texts, texts: texts.texts.slice(0, SEQUENCES) },
      evaluation: { ...texts, texts: texts.texts.slice(0, 1) },
      bits: "4",
      settings: { epochs: 1 },
      report: ({ kind }) => {
        if (kind === "start") start = performance.now();
        if (kind !== "sensitivity") return;
        seconds = (performance.now() - start) / 1000;
        throw new Calibrated();
      },
    });
  } catch (error) {
    if (!(error instanceof Calibrated)) throw error;
  }
  return seconds;
}

/** Medians of a few calibrations each, taking turns, after one that compiles. */
export async function calibrationSeconds({ backend, folder, texts, depths, repeats }: DepthBench): Promise<number[]> {
  const models = await Promise.all(depths.map((layers) => firstLayers(folder, layers)));
  const times = models.map((): number[] => []);
  for (let round = -1; round < repeats; round++) {
    for (const [i, model] of models.entries()) {
      const seconds = await secondsOf(model, backend, texts);
      if (round >= 0) times[i]?.push(seconds);
    }
  }
  return times.map(medianOf);
}
