/** @file Reading a whole checkpoint once before work on it begins: what is missing, misshapen or not finite is told at the start. */
import type { Checkpoint } from "../compiler/frontends/checkpoint.ts";
import { decoderSource } from "../compiler/frontends/decoder_source.ts";
import { quote, UserError } from "../ir/errors.ts";
import { type Module, parametersOf } from "../ir/module.ts";
import { concreteShape } from "../ir/types.ts";

/**
 * Checks every tensor that a module needs, first by the headers, then by its values.
 *
 * @param module of the checkpoint, as its front-end made it
 * @returns a hash of names and values, whatever files and number formats they are stored in
 * @throws {UserError} if a tensor is missing, has another shape, or holds NaN or an infinity, or if there are layers or biases
 *   that the module lacks, or a head that is not the embedding it is tied to
 */
export async function verifyCheckpoint(checkpoint: Checkpoint, module: Module): Promise<string> {
  const tensorName = decoderSource(checkpoint.config), needed = new Map<string, readonly number[]>();
  for (const call of module.calls) {
    for (const [name, { shape }] of parametersOf(module, call)) {
      if (!module.derived[name]) needed.set(tensorName(name), concreteShape(shape));
    }
  }
  for (const [name, shape] of needed) checkpoint.check(name, shape);
  refuseUnused(checkpoint, needed);
  const [head, embedding] = [tensorName("head.weight"), tensorName("embedding.weight")],
    lines: string[] = [],
    hashOf = async (name: string, shape: readonly number[]) =>
      await sha256((await checkpoint.tensor(name, shape)).data);
  for (const [name, shape] of needed) {
    const hash = await hashOf(name, shape);
    lines.push(`${name} ${hash}`);
    const isTied = name === embedding && checkpoint.config.tieEmbeddings && checkpoint.has(head);
    if (isTied && await hashOf(head, shape) !== hash) throw otherHead(checkpoint, head);
  }
  return await sha256(new TextEncoder().encode(lines.sort().join("\n")));
}

/**
 * Refuses weights and biases of layers that the configuration does not speak of: a model without them would run and be wrong.
 * Tables that are computed anew (`rotary_emb.inv_freq`) and the head of a model with tied embeddings, if it is the embedding, may be
 * there unused.
 */
function refuseUnused({ name: folder, names }: Checkpoint, needed: ReadonlyMap<string, readonly number[]>): void {
  const unused = names.find((name) =>
    /^(model\.)?layers\.\d+\..+\.(weight|bias)$/.test(name) && !needed.has(name.replace(/^(model\.)?/, "model."))
  );
  if (unused === undefined) return;
  throw new UserError({
    what: `Expected only tensors that the config.json accounts for but found ${quote(unused)}`,
    where: quote(folder),
    mend: "use weights that match the config.json, with its number of layers and its biases",
  });
}

/** A head that is another matrix than the embedding it is said to be tied to: which of the two is meant is not known. */
const otherHead = ({ name }: Checkpoint, head: string): UserError =>
  new UserError({
    what: `Expected ${quote(head)} to be the embedding, as config.json says, but found other values`,
    where: quote(name),
    mend: 'set "tie_word_embeddings" to false if the head is to be used, or remove the tensor',
  });

/** SHA-256 as hexadecimal digits. */
export async function sha256(data: ArrayBufferView<ArrayBuffer>): Promise<string> {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", data)).toHex();
}
