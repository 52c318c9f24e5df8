/**
 * @file The user's file of choices among variants of GPU kernels, so that every run on one device makes the same ones. It is a cache:
 * without permission to keep it, or with a broken file, choices last as long as the process.
 */
import { memoryStore, type TuningStore } from "../../backends/webgpu/tuner.ts";
import { VERSION } from "../version.ts";

/** The folder for caches by the conventions of the platform; undefined where the environment may not be read. */
function cacheFolder(): string | undefined {
  const variable = (name: string): string | undefined =>
    Deno.permissions.querySync({ name: "env", variable: name }).state === "granted" ? Deno.env.get(name) : undefined;
  if (Deno.build.os === "windows") return variable("LOCALAPPDATA");
  const home = variable("HOME");
  return variable("XDG_CACHE_HOME") ||
    (home && (Deno.build.os === "darwin" ? `${home}/Library/Caches` : `${home}/.cache`));
}

/** Choices of an earlier run. */
function readChoices(path: string): Record<string, string> {
  if (Deno.permissions.querySync({ name: "read", path }).state !== "granted") return {};
  try {
    const found: unknown = JSON.parse(Deno.readTextFileSync(path));
    if (typeof found !== "object" || found === null) return {};
    return Object.fromEntries(Object.entries(found).filter(([, variant]) => typeof variant === "string"));
  } catch {
    return {}; // There is none yet, or another program broke it.
  }
}

/**
 * Opens the file.
 *
 * @param folder where it lies; by default the user's folder for caches
 */
export function openTuningFile(folder: string | undefined = cacheFolder()): TuningStore {
  if (folder === undefined) return memoryStore();
  const home = `${folder}/vernier`, path = `${home}/webgpu-${VERSION}.json`, choices = readChoices(path);
  const store = memoryStore();
  for (const [key, variant] of Object.entries(choices)) store.set(key, variant);
  return {
    get: store.get,
    set(key, variant) {
      store.set(key, variant);
      choices[key] = variant;
      if (Deno.permissions.querySync({ name: "write", path: home }).state !== "granted") return;
      try {
        Deno.mkdirSync(home, { recursive: true });
        // Processes that tune at the same time replace each other's whole files, never parts.
        const draft = `${path}.${Deno.pid}`;
        Deno.writeTextFileSync(draft, JSON.stringify({ ...readChoices(path), ...choices }, null, 1));
        Deno.renameSync(draft, path);
      } catch {
        // A full disk or a read-only folder costs the next run some time, and this one nothing.
      }
    },
  };
}
