/**
 * @file Finished calls in a folder, one safetensors file each, so that a calibration that was killed goes on where it was. A
 * file is there in full or not at all, and a folder of another calibration is refused rather than mixed with this one.
 */
import { fromStored, toStored } from "../../backends/stored.ts";
import { quote, UserError } from "../../ir/errors.ts";
import { writeAtomically } from "../artifact/atomic_write.ts";
import { FORMAT_NAMES, formatOf, readTensors, typeOfFormat } from "../artifact/formats.ts";
import { writeSafetensors } from "../artifact/safetensors_writer.ts";
import { concreteShape, type TensorType } from "../../ir/types.ts";
import { type JsonObject, parseJsonObject } from "../frontends/json.ts";
import { openSafetensors, type SafetensorsFile } from "../frontends/safetensors.ts";
import { explain, fileSource, localFolder } from "../frontends/source.ts";
import type { CallStore } from "./store.ts";

/** A store on disk. */
export interface FolderStore extends CallStore {
  /** How many calls were finished when the store was opened. */
  readonly finished: number;
  /** Deletes the folder; the store must not be used afterwards. */
  remove(): Promise<void>;
}

const FINGERPRINT = "fingerprint.json";
const CALL_FILE = /^call-\d+\.safetensors$/;

/**
 * Opens a folder, or makes it.
 *
 * @param path of the folder; the folder around it must exist
 * @param fingerprint everything that the result depends on: hashes of model and data, recipe, settings, seed
 * @throws {UserError} if the folder holds the calls of another calibration, or cannot be written
 */
export async function openFolderStore(path: string, fingerprint: JsonObject): Promise<FolderStore> {
  const cannotWrite = (error: unknown) => explain(error, "write", path);
  await Deno.mkdir(path, { recursive: true }).catch(cannotWrite);
  const folder = await localFolder(path), within = (file: string) => `${path}/${file}`;
  if (await folder.has(FINGERPRINT)) {
    checkFingerprint(parseJsonObject(await folder.read(FINGERPRINT), within(FINGERPRINT)), fingerprint, path);
  } else {
    await writeAtomically(within(FINGERPRINT), [new TextEncoder().encode(canonical(fingerprint))]);
  }
  const fileOf = (call: number) => within(`call-${String(call).padStart(4, "0")}.safetensors`);
  const known = new Set(await tidy(path)), opened = new Map<number, Promise<CallFile>>();
  /** A finished call's file, opened once. */
  const open = (call: number): Promise<CallFile> | undefined => {
    if (!known.has(fileOf(call))) return undefined;
    const file = opened.get(call) ?? openCall(fileOf(call));
    opened.set(call, file);
    return file;
  };
  return {
    finished: known.size,
    load: async (call) => {
      const found = await open(call);
      if (!found) return undefined;
      const read = await readTensors(found.file, found.types);
      return Array.from(read, ([name, { type: { dtype, shape }, bytes }]) => ({
        name,
        dtype,
        shape: concreteShape(shape),
        values: fromStored(dtype, bytes),
      }));
    },
    read: async (call, names) => {
      const found = await open(call);
      if (!found) return new Map();
      const { file, types } = found, wanted = new Set(names);
      return await readTensors(file, new Map([...types].filter(([name]) => wanted.has(name))));
    },
    tensors: async (call) => {
      const found = await open(call);
      if (!found) return undefined;
      const { file, types } = found;
      return Array.from(types, ([name, type]) => ({
        name,
        dtype: type.dtype,
        shape: concreteShape(type.shape),
        values: async () => {
          const [tensor] = (await readTensors(file, new Map([[name, type]]))).values();
          return fromStored(type.dtype, tensor?.bytes ?? new Uint8Array());
        },
      }));
    },
    save: async (call, tensors) => {
      await writeSafetensors(
        fileOf(call),
        tensors.map(({ name, dtype, shape, values }) => {
          return { name, ...formatOf(dtype, shape), data: () => toStored(dtype, values) };
        }),
      );
      known.add(fileOf(call));
      opened.delete(call);
    },
    remove: () => Deno.remove(path, { recursive: true }).catch(cannotWrite),
  };
}

/** Removes what a killed run left half written; returns the files of finished calls. */
async function tidy(path: string): Promise<readonly string[]> {
  const finished: string[] = [];
  for await (const { name } of Deno.readDir(path)) {
    if (CALL_FILE.test(name)) finished.push(`${path}/${name}`);
    if (name.endsWith(".tmp")) await Deno.remove(`${path}/${name}`).catch((error) => explain(error, "write", path));
  }
  return finished;
}

/** A finished call's file with the types of its tensors. */
interface CallFile {
  readonly file: SafetensorsFile;
  readonly types: ReadonlyMap<string, TensorType>;
}

async function openCall(path: string): Promise<CallFile> {
  const file = await openSafetensors(await fileSource(path));
  const types = Array.from(file.tensors.values(), ({ name, dtype: format, shape }) => {
    const type = typeOfFormat(format, shape);
    if (type) return [name, type] as const;
    throw new UserError({
      what: `Expected values of ${FORMAT_NAMES} in tensor ${quote(name)} but found ${format}`,
      where: quote(path),
      mend: "remove the file, so that its block is calibrated again",
    });
  });
  return { file, types: new Map(types) };
}

function checkFingerprint(found: JsonObject, expected: JsonObject, path: string): void {
  const keys = [...new Set([...Object.keys(expected), ...Object.keys(found)])];
  const different = keys.filter((key) => canonical(found[key] ?? null) !== canonical(expected[key] ?? null));
  if (different.length === 0) return;
  throw new UserError({
    what: `Expected an interrupted run of this calibration but found one of another ${different.join(", ")}`,
    where: quote(path),
    mend: "repeat that run's options to finish it, or remove the folder to start anew",
  });
}

/** JSON text with sorted keys: equal values give equal texts. */
export function canonical(value: unknown): string {
  return JSON.stringify(value, (_, inner: unknown) => {
    if (typeof inner !== "object" || inner === null || Array.isArray(inner)) return inner;
    return Object.fromEntries(Object.entries(inner).sort(([a], [b]) => a < b ? -1 : a > b ? 1 : 0));
  });
}
