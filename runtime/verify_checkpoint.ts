/** @file Reading a whole checkpoint once before work on it begins: what is missing, misshapen or not finite is told at the start. */
import type { Checkpoint } from "../compiler/frontends/checkpoint.ts";
import { decoderSource } from "../compiler/frontends/decoder_source.ts";
import { type Module, parametersOf } from "../ir/module.ts";
import { concreteShape } from "../ir/types.ts";

/**
 * Checks every tensor that a module needs, first by the headers, then by its values.
 *
 * @param module of the checkpoint, as its front-end made it
 * @returns a hash of names and values, whatever files and number formats they are stored in
 * @throws {UserError} if a tensor is missing, has another shape, or holds NaN or an infinity
 */
export async function verifyCheckpoint(checkpoint: Checkpoint, module: Module): Promise<string> {
  const tensorName = decoderSource(checkpoint.config), needed = new Map<string, readonly number[]>();
  for (const call of module.calls) {
    for (const [name, { shape }] of parametersOf(module, call)) {
      if (!module.derived[name]) needed.set(tensorName(name), concreteShape(shape));
    }
  }
  for (const [name, shape] of needed) checkpoint.check(name, shape);
  const lines: string[] = [];
  for (const [name, shape] of needed) {
    lines.push(`${name} ${await sha256((await checkpoint.tensor(name, shape)).data)}`);
  }
  return await sha256(new TextEncoder().encode(lines.sort().join("\n")));
}

/** SHA-256 as hexadecimal digits. */
export async function sha256(data: ArrayBufferView<ArrayBuffer>): Promise<string> {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", data)).toHex();
}
