/** @file The version of this program, as the package says it. */
import manifest from "../deno.json" with { type: "json" };

/** Version by semantic versioning; every artifact names the one that made it. */
export const VERSION: string = manifest.version;
