/** @file An artifact that was never written: for programs without write permission, and for trying things out. */
import { type StoredBytes, toStored } from "../backends/stored.ts";
import type { Artifact, ArtifactTensor } from "../compiler/artifact/artifact.ts";
import type { ArtifactDescription } from "../compiler/artifact/description.ts";
import { quote, UserError } from "../ir/errors.ts";
import { tensorType } from "../ir/types.ts";

/**
 * The artifact that `writeArtifact` and `openArtifact` would make of these tensors.
 *
 * @param name what messages call it
 */
export function memoryArtifact(
  name: string,
  description: ArtifactDescription,
  tensors: readonly ArtifactTensor[],
): Artifact {
  const byName = new Map(tensors.map((tensor) => [tensor.name, tensor]));
  const find = (wanted: string): ArtifactTensor => {
    const found = byName.get(wanted);
    if (found) return found;
    throw new UserError({ what: `Expected a tensor ${quote(wanted)} but found none of that name`, where: quote(name) });
  };
  const typeOf = (wanted: string) => tensorType(find(wanted).dtype, find(wanted).shape);
  return {
    name,
    description,
    names: [...byName.keys()],
    has: (wanted) => byName.has(wanted),
    typeOf,
    read: async (wanted) => {
      const read = new Map<string, StoredBytes>();
      for (const each of wanted) {
        const type = typeOf(each);
        read.set(each, { type, bytes: toStored(type.dtype, await find(each).values()) });
      }
      return read;
    },
  };
}
