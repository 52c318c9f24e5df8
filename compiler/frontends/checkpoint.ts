/**
 * @file A Hugging Face folder as a checkpoint: its configuration and its weights, read tensor by tensor. Whether the
 * weights lie in one file or in shards, and in which number format, is settled here.
 */
import { quote, UserError } from "../../ir/errors.ts";
import { type DecoderConfig, parseDecoderConfig } from "./config.ts";
import { isFloatFormat, notFloats } from "./floats.ts";
import { decodeText, findDuplicateKey, isJsonObject, parseJsonObject } from "./json.ts";
import { openSafetensors, type SafetensorsFile, type TensorInfo } from "./safetensors.ts";
import type { Folder } from "./source.ts";

/** Values of one tensor, row-major. */
export interface Tensor {
  readonly shape: readonly number[];
  readonly data: Float32Array<ArrayBuffer>;
}

/**
 * An open checkpoint. Tensors have the names of the full causal model, `model.layers.0.self_attn.q_proj.weight`; files
 * saved from the bare decoder, which lack the prefix `model.`, answer to them as well.
 */
export interface Checkpoint {
  /** What messages call it. */
  readonly name: string;
  readonly config: DecoderConfig;
  /** The names as the files have them. */
  readonly names: readonly string[];
  has(name: string): boolean;
  /**
   * Checks one tensor by its file's header, reading no data: models are checked in full before work on them begins.
   *
   * @param expected the shape it must have
   * @throws {UserError} if it is missing, of another shape, or not floating-point
   */
  check(name: string, expected: readonly number[]): void;
  /**
   * Reads one tensor as f32.
   *
   * @param expected the shape it must have
   * @throws {UserError} as `check`, and if it holds NaN or an infinity
   */
  tensor(name: string, expected: readonly number[]): Promise<Tensor>;
}

const CONFIG = "config.json";
const SINGLE = "model.safetensors";
const INDEX = "model.safetensors.index.json";

/**
 * Opens a checkpoint: reads `config.json` and the headers of the weight files, but no weights.
 *
 * @throws {UserError} if a file is missing or broken, or the model is not one that is supported
 */
export async function openCheckpoint(folder: Folder): Promise<Checkpoint> {
  if (!await folder.has(CONFIG)) {
    throw new UserError({
      what: `Expected a Hugging Face model in ${quote(folder.name)} but found no ${CONFIG}`,
      mend: "give the folder that holds config.json, tokenizer.json and model.safetensors",
    });
  }
  const config = parseDecoderConfig(await folder.read(CONFIG), `${folder.name}/${CONFIG}`);
  const places = await findTensors(folder);
  const find = (name: string) => places.get(name) ?? places.get(name.replace(/^model\./, ""));
  const checked = (name: string, expected: readonly number[]): Place => {
    const place = find(name);
    if (place) return checkPlace(place, expected);
    throw new UserError({
      what: `Expected a tensor ${quote(name)} but found none of that name`,
      where: quote(folder.name),
      mend: `use a complete checkpoint, with weights that match its ${CONFIG}`,
    });
  };
  // Every layer has tensors of its own; a hostile number of layers must not become a hostile number of graph calls.
  if (config.layers > places.size) {
    throw new UserError({
      what: `Expected weights of ${config.layers} layers but found ${places.size} tensors in all`,
      where: quote(folder.name),
      mend: `use weights that match the ${CONFIG}`,
    });
  }
  return {
    name: folder.name,
    config,
    names: [...places.keys()],
    has: (name) => find(name) !== undefined,
    check: (name, expected) => void checked(name, expected),
    tensor: async (name, expected) => {
      const { file, info } = checked(name, expected);
      const data = await file.floats(info.name);
      checkFinite({ file, info }, data);
      return { shape: info.shape, data };
    },
  };
}

/** Where a tensor lies. */
interface Place {
  readonly file: SafetensorsFile;
  readonly info: TensorInfo;
}

async function findTensors(folder: Folder): Promise<ReadonlyMap<string, Place>> {
  if (await folder.has(SINGLE)) {
    const file = await openSafetensors(await folder.open(SINGLE));
    return new Map(Array.from(file.tensors, ([name, info]) => [name, { file, info }]));
  }
  if (await folder.has(INDEX)) return await findShardedTensors(folder);
  throw new UserError({
    what: `Expected weights in ${quote(folder.name)} but found neither ${SINGLE} nor ${INDEX}`,
    mend: "save the model in the safetensors format",
  });
}

async function findShardedTensors(folder: Folder): Promise<ReadonlyMap<string, Place>> {
  const shardOf = await readIndex(folder);
  const shards = new Map<string, SafetensorsFile>();
  for (const shard of new Set(shardOf.values())) shards.set(shard, await openSafetensors(await folder.open(shard)));
  const places = new Map<string, Place>();
  for (const [name, shard] of shardOf) {
    const file = shards.get(shard);
    const info = file?.tensors.get(name);
    if (!file || !info) {
      throw indexError(folder, `Expected tensor ${quote(name)} in ${quote(shard)} but found none of that name there`);
    }
    places.set(name, { file, info });
  }
  return places;
}

/** The index's map from tensor to shard. */
async function readIndex(folder: Folder): Promise<ReadonlyMap<string, string>> {
  const bytes = await folder.read(INDEX);
  const { weight_map: weightMap } = parseJsonObject(bytes, `${folder.name}/${INDEX}`);
  const twice = findDuplicateKey(decodeText(bytes, INDEX));
  if (twice !== null) throw indexError(folder, `Expected distinct keys but found ${quote(twice)} twice`);
  if (!isJsonObject(weightMap)) {
    throw indexError(folder, `Expected "weight_map" to be an object but found ${quote(weightMap)}`);
  }
  return new Map(
    Object.entries(weightMap).map(([tensor, shard]) => {
      // A name with a slash would reach out of the folder.
      if (typeof shard === "string" && /^[^/\\]+\.safetensors$/.test(shard)) return [tensor, shard];
      throw indexError(
        folder,
        `Expected a safetensors file name for tensor ${quote(tensor)} but found ${quote(shard)}`,
      );
    }),
  );
}

function checkPlace(place: Place, expected: readonly number[]): Place {
  const { file, info } = place;
  if (info.shape.length !== expected.length || info.shape.some((size, axis) => size !== expected[axis])) {
    throw new UserError({
      what: `Expected tensor ${quote(info.name)} to have shape ${quote(expected)} but found ${quote(info.shape)}`,
      where: quote(file.name),
      mend: `use weights that match the ${CONFIG}`,
    });
  }
  if (!isFloatFormat(info.dtype)) throw notFloats(info.dtype, info.name, file.name);
  return place;
}

function checkFinite({ file, info }: Place, data: Float32Array): void {
  const at = data.findIndex((value) => !Number.isFinite(value));
  if (at < 0) return;
  throw new UserError({
    what: `Expected finite weights in tensor ${quote(info.name)} but found ${data[at]} at position ${at}`,
    where: quote(file.name),
    mend: "use a checkpoint whose training did not diverge",
  });
}

const indexError = (folder: Folder, what: string) =>
  new UserError({ what, where: quote(`${folder.name}/${INDEX}`), mend: "use an intact checkpoint" });
