/** What twice the depth costs: calibrations of the first blocks of a model, kernels compiled before. */
import type { Backend } from "../../../backends/backend.ts";
import type { TextData } from "../../../compiler/frontends/dataset.ts";
import { type Folder, memoryFolder } from "../../../compiler/frontends/source.ts";
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
const FILES = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];

/** A safetensors file without the tensors of later layers. */
function firstTensors(file: Uint8Array, layers: number): Uint8Array {
  const size = Number(new DataView(file.buffer, file.byteOffset).getBigUint64(0, true)), data = file.subarray(8 + size);
  const header: Record<string, { data_offsets: [number, number] }> = JSON.parse(
    new TextDecoder().decode(file.subarray(8, 8 + size)),
  );
  const parts: Uint8Array[] = [], kept: Record<string, unknown> = {};
  let end = 0;
  for (const [name, entry] of Object.entries(header)) {
    const [, layer] = /\.layers\.(\d+)\./.exec(name) ?? [];
    if (name === "__metadata__" || Number(layer ?? 0) >= layers) continue;
    const part = data.subarray(...entry.data_offsets);
    kept[name] = { ...entry, data_offsets: [end, end + part.length] };
    parts.push(part);
    end += part.length;
  }
  const text = new TextEncoder().encode(JSON.stringify(kept)), whole = new Uint8Array(8 + text.length + end);
  new DataView(whole.buffer).setBigUint64(0, BigInt(text.length), true);
  whole.set(text, 8);
  parts.reduce((at, part) => (whole.set(part, at), at + part.length), 8 + text.length);
  return whole;
}

/** The model's first layers as a model. */
async function firstLayers(folder: Folder, layers: number): Promise<Folder> {
  const files = await Promise.all(FILES.map(async (file) => [file, await folder.read(file)] as const));
  const contents = new Map<string, Uint8Array>(files);
  const config = JSON.parse(new TextDecoder().decode(contents.get("config.json")));
  contents.set("config.json", new TextEncoder().encode(JSON.stringify({ ...config, num_hidden_layers: layers })));
  contents.set("model.safetensors", firstTensors(contents.get("model.safetensors") as Uint8Array, layers));
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
