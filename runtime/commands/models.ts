/** @file Checkpoints and artifacts alike, as what evaluation and sessions run. */
import type { Runner } from "../../backends/runner.ts";
import { isArtifact, openArtifact } from "../../compiler/artifact/artifact.ts";
import type { BitSpec } from "../../compiler/bit_spec.ts";
import { openCheckpoint } from "../../compiler/frontends/checkpoint.ts";
import { decoderModule } from "../../compiler/frontends/decoder.ts";
import type { Folder } from "../../compiler/frontends/source.ts";
import { defaultRecipe, type Track } from "../../compiler/recipe.ts";
import { artifactSource } from "../artifact_source.ts";
import { checkpointSource } from "../checkpoint_source.ts";
import type { ElasticSource } from "../elastic_source.ts";
import { trackOf } from "../precision_table.ts";
import { verifyCheckpoint } from "../verify_checkpoint.ts";

/** A model's source for each setting: one for all of an artifact, one per recipe of a checkpoint. */
export type SourceOf = (spec: BitSpec) => ElasticSource;

/**
 * Opens a checkpoint or an artifact. A checkpoint's widths round to nearest: it has nothing learned.
 *
 * @throws {UserError} if the folder holds neither, or is damaged
 */
export async function openSource(folder: Folder, runner: Runner): Promise<SourceOf> {
  if (await isArtifact(folder)) {
    const source = artifactSource(await openArtifact(folder), runner);
    return () => source;
  }
  const checkpoint = await openCheckpoint(folder);
  await verifyCheckpoint(checkpoint, decoderModule(checkpoint.config));
  const sources = new Map<Track, ElasticSource>();
  return (spec) => {
    const track = trackOf([spec]),
      source = sources.get(track) ?? checkpointSource(checkpoint, runner, defaultRecipe(track, 0));
    sources.set(track, source);
    return source;
  };
}
