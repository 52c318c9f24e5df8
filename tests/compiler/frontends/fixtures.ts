/** @file What the front-end tests share: hand-made safetensors bytes, small folders, and the demand for a `UserError`. */
import { assert, assertMatch, assertRejects } from "@std/assert";
import { memoryFolder } from "../../../compiler/frontends/source.ts";
import type { Folder } from "../../../compiler/frontends/source.ts";
import { UserError } from "../../../ir/errors.ts";

export const utf8 = (text: string): Uint8Array<ArrayBuffer> => new TextEncoder().encode(text);

/** The bytes of a safetensors file with any header text, however wrong, and any data. */
export function rawSafetensors(header: string | Uint8Array, data: Uint8Array = new Uint8Array(0)): Uint8Array {
  const json = typeof header === "string" ? utf8(header) : header;
  const bytes = new Uint8Array(8 + json.length + data.length);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(json.length), true);
  bytes.set(json, 8);
  bytes.set(data, 8 + json.length);
  return bytes;
}

/** The bytes of a well-formed file of f32 tensors. */
export function f32Safetensors(tensors: Record<string, { shape: number[]; values: number[] }>): Uint8Array {
  const header: Record<string, unknown> = {};
  const values: number[] = [];
  for (const [name, tensor] of Object.entries(tensors)) {
    const begin = 4 * values.length;
    values.push(...tensor.values);
    header[name] = { dtype: "F32", shape: tensor.shape, data_offsets: [begin, 4 * values.length] };
  }
  return rawSafetensors(JSON.stringify(header), new Uint8Array(Float32Array.from(values).buffer));
}

/** A folder in memory named "model". */
export function folderOf(files: Record<string, Uint8Array | string>): Folder {
  const entries = Object.entries(files).map(([name, content]) =>
    [name, typeof content === "string" ? utf8(content) : content] as const
  );
  return memoryFolder("model", new Map(entries));
}

/** Demands a `UserError` of one line which matches `pattern`. */
export async function assertUserError(run: () => unknown, pattern: RegExp): Promise<void> {
  const error = await assertRejects(() => Promise.try(run), UserError);
  assertMatch(error.message, pattern);
  assert(!error.message.includes("\n"), `one line: ${error.message}`);
}

/** The real model beside the repository, or null after a visible line where it is absent. */
export async function storiesFolder(test: string): Promise<string | null> {
  const path = new URL("../../../../shared/data/stories260K-hf", import.meta.url).pathname;
  const found = await Deno.stat(path).then(() => true, () => false);
  if (!found) console.warn(`SKIPPED ${test}: ${path} is absent`);
  return found ? path : null;
}
