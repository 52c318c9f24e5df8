/** @file An artifact as a source of sessions and evaluation: tensors are read by byte range when a call needs them. */
import type { Runner } from "../backends/runner.ts";
import type { Tensor } from "../backends/backend.ts";
import type { StoredBytes } from "../backends/stored.ts";
import type { Artifact } from "../compiler/artifact/artifact.ts";
import { learnedName } from "../compiler/artifact/refined.ts";
import { parseDecoderConfig } from "../compiler/frontends/config.ts";
import { contextLimit } from "../compiler/frontends/decoder.ts";
import { modelSites } from "../compiler/model_sites.ts";
import type { Call } from "../ir/module.ts";
import { quote, UserError } from "../ir/errors.ts";
import { sameType, typeText } from "../ir/types.ts";
import { type ElasticSource, freeTensors } from "./elastic_source.ts";
import { readAhead } from "./read_ahead.ts";

/**
 * A source over an open artifact.
 *
 * @throws {UserError} if the artifact's configuration is not one of a decoder
 */
export function artifactSource(artifact: Artifact, runner: Runner): ElasticSource {
  const { module, recipe, config, frontier, refined } = artifact.description, { backend } = runner;
  const bytes = new TextEncoder().encode(JSON.stringify(config));
  const free = freeTensors(runner), reads = readAhead(artifact.read);
  const nameIn = ({ prefix }: Call, set: number | undefined) => (name: string) => learnedName(prefix + name, set);
  return {
    name: artifact.name,
    runner,
    module,
    scheme: recipe.scheme,
    sites: modelSites(module),
    widths: [...new Set(recipe.bitGroups.flat())].sort(),
    contextLimit: contextLimit(parseDecoderConfig(bytes, artifact.name)),
    ...(frontier ? { frontier } : {}),
    ...(refined ? { refined } : {}),
    load: async (call, leaves, set) => {
      const nameOf = nameIn(call, set), stored = await reads.read([...leaves.keys()].map(nameOf));
      const tensors: Record<string, Tensor> = {};
      try {
        for (const [name, expected] of leaves) {
          const global = nameOf(name), { type, bytes } = stored.get(global) as StoredBytes;
          if (!sameType(type, expected)) {
            throw new UserError({
              what: `Expected tensor ${quote(global)} to be ${typeText(expected)} but found ${typeText(type)}`,
              where: quote(artifact.name),
              mend: "use an intact artifact, or compile the model again",
            });
          }
          tensors[name] = backend.uploadStored(type, bytes);
        }
      } catch (error) {
        free(call, tensors);
        throw error;
      }
      return tensors;
    },
    ahead: (call, leaves, set) => reads.begin([...leaves.keys()].map(nameIn(call, set))),
    release: free,
  };
}
