/**
 * @file The elastic artifact: one safetensors file with the values that are known before the configuration (master, norms,
 * embeddings, tables, adapters, clip factors) under their global names, and its description in the metadata. Tokenizer and
 * configuration of the checkpoint lie beside it, as they were.
 */
import type { HostArray } from "../../backends/backend.ts";
import { type StoredBytes, toStored } from "../../backends/stored.ts";
import { quote, UserError } from "../../ir/errors.ts";
import { type DType, type TensorType, typeText } from "../../ir/types.ts";
import { openSafetensors, type TensorInfo } from "../frontends/safetensors.ts";
import type { Folder } from "../frontends/source.ts";
import { storedTypes } from "./contents.ts";
import { type ArtifactDescription, METADATA_KEY, parseDescription, printDescription } from "./description.ts";
import { FORMAT_NAMES, formatOf, readTensors, typeOfFormat } from "./formats.ts";
import { encodeSafetensors, type OutputTensor, writeSafetensors } from "./safetensors_writer.ts";

/** The file of an artifact in its folder. */
export const ARTIFACT_FILE = "model.safetensors";

/** An open artifact. */
export interface Artifact {
  /** What messages call it. */
  readonly name: string;
  readonly description: ArtifactDescription;
  /** Names of all tensors. */
  readonly names: readonly string[];
  has(name: string): boolean;
  /**
   * Type of a tensor, by the file's header.
   *
   * @throws {UserError} if there is none of that name, or it is of a type that artifacts do not use
   */
  typeOf(name: string): TensorType;
  /**
   * Reads tensors, those that lie near each other at once.
   *
   * @throws {UserError} as `typeOf`, and if values are not finite or the file has become shorter
   */
  read(names: readonly string[]): Promise<ReadonlyMap<string, StoredBytes>>;
}

/** A tensor to be written, produced when its turn comes. */
export interface ArtifactTensor {
  /** Global name: the call's prefix and the name of the hold or parameter. */
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly values: () => HostArray | Promise<HostArray>;
}

/** Whether a folder holds an artifact rather than a checkpoint; reads the header of one file. */
export async function isArtifact(folder: Folder): Promise<boolean> {
  if (!await folder.has(ARTIFACT_FILE)) return false;
  return (await openSafetensors(await folder.open(ARTIFACT_FILE))).metadata.has(METADATA_KEY);
}

/**
 * Opens an artifact: reads the header of its file, but no tensors.
 *
 * @throws {UserError} if the file is missing or damaged, no artifact, of an unknown version, or lacks tensors of its module
 */
export async function openArtifact(folder: Folder): Promise<Artifact> {
  if (!await folder.has(ARTIFACT_FILE)) {
    throw new UserError({
      what: `Expected an artifact in ${quote(folder.name)} but found no ${ARTIFACT_FILE}`,
      mend: "compile a model with --out and give that folder",
    });
  }
  const file = await openSafetensors(await folder.open(ARTIFACT_FILE)), text = file.metadata.get(METADATA_KEY);
  if (text === undefined) {
    throw new UserError({
      what: `Expected metadata ${quote(METADATA_KEY)} but found none`,
      where: quote(file.name),
      mend: "compile the checkpoint first and give the folder of the result",
    });
  }
  const description = parseDescription(text, file.name), needed = neededTypes(description, file.name);
  const find = (name: string): TensorInfo => {
    const info = file.tensors.get(name);
    if (info) return info;
    throw damaged(file.name, `Expected a tensor ${quote(name)} but found none of that name`);
  };
  const types = new Map<string, TensorType>();
  const typeOf = (name: string): TensorType => {
    const { dtype: format, shape } = find(name);
    const type = types.get(name) ?? typeOfFormat(format, shape, needed.get(name)?.dtype);
    if (type) {
      types.set(name, type);
      return type;
    }
    const found = `${format}[${shape.join(",")}]`;
    throw damaged(file.name, `Expected values of ${FORMAT_NAMES} in tensor ${quote(name)} but found ${found}`);
  };
  const artifact: Artifact = {
    name: file.name,
    description,
    names: [...file.tensors.keys()],
    has: (name) => file.tensors.has(name),
    typeOf,
    read: async (names) => await readTensors(file, new Map(names.map((name) => [name, typeOf(name)]))),
  };
  for (const [name, type] of needed) checkType(artifact, name, type);
  return artifact;
}

/** The tensors that the module needs; a module or recipe that no program can be made of is the file's fault. */
function neededTypes({ module, recipe, refined }: ArtifactDescription, file: string): ReadonlyMap<string, TensorType> {
  try {
    return storedTypes(module, recipe, refined);
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw damaged(file, `Cannot make programs of the module: ${reason}`);
  }
}

function checkType(artifact: Artifact, name: string, expected: TensorType): void {
  const found = typeText(artifact.typeOf(name));
  if (found === typeText(expected)) return;
  throw damaged(artifact.name, `Expected tensor ${quote(name)} to be ${typeText(expected)} but found ${found}`);
}

/**
 * Writes an artifact's file atomically. The same description and tensors give the same bytes.
 *
 * @param path of the file, usually `<folder>/model.safetensors`
 * @param tensors in any order; a name that comes twice (tied embeddings) must have the same values both times
 * @throws {UserError} if it cannot be written
 */
export async function writeArtifact(
  path: string,
  description: ArtifactDescription,
  tensors: readonly ArtifactTensor[],
): Promise<void> {
  await writeSafetensors(path, outputTensors(tensors), metadataOf(description));
}

/** The bytes of an artifact's file, for a folder in memory; see `writeArtifact`. */
export async function artifactBytes(
  description: ArtifactDescription,
  tensors: readonly ArtifactTensor[],
): Promise<Uint8Array<ArrayBuffer>> {
  const parts = await Array.fromAsync(encodeSafetensors(outputTensors(tensors), metadataOf(description)));
  return new Uint8Array(await new Blob(parts as Uint8Array<ArrayBuffer>[]).arrayBuffer());
}

const metadataOf = (description: ArtifactDescription): Readonly<Record<string, string>> => ({
  format: "pt",
  [METADATA_KEY]: printDescription(description),
});

function outputTensors(tensors: readonly ArtifactTensor[]): readonly OutputTensor[] {
  const byName = new Map<string, ArtifactTensor[]>();
  for (const tensor of tensors) byName.set(tensor.name, [...byName.get(tensor.name) ?? [], tensor]);
  return [...byName.values()].map(([first, ...others]): OutputTensor => {
    const { name, dtype, shape, values } = first as ArtifactTensor;
    return {
      name,
      ...formatOf(dtype, shape),
      data: async () => {
        const bytes = toStored(dtype, await values());
        for (const other of others) checkEqual(name, bytes, toStored(other.dtype, await other.values()));
        return bytes;
      },
    };
  });
}

function checkEqual(name: string, a: Uint8Array, b: Uint8Array): void {
  if (a.length === b.length && a.every((byte, i) => byte === b[i])) return;
  throw new Error(`Internal error in writeArtifact: two different values to be stored as "${name}"`);
}

const damaged = (file: string, what: string) =>
  new UserError({ what, where: quote(file), mend: "use an intact artifact, or compile the model again" });
