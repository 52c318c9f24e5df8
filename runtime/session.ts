/**
 * @file A session: one sequence on an elastic model, token by token, with a key/value cache. Its precision can be changed
 * between any two tokens, and the cache is kept.
 */
import type { Backend } from "../backends/backend.ts";
import { createRunner } from "../backends/runner.ts";
import { openArtifact } from "../compiler/artifact/artifact.ts";
import { checkIds } from "../compiler/frontends/dataset.ts";
import type { Folder } from "../compiler/frontends/source.ts";
import { quote, UserError } from "../ir/errors.ts";
import type { Module } from "../ir/module.ts";
import type { BitConfig, QuantizationScheme } from "../ir/sites.ts";
import { artifactSource } from "./artifact_source.ts";
import { configurationOf, type Precision } from "./configuration.ts";
import { callPrecisions, configureCall, type ConfiguredCall, readCallAhead } from "./configured_call.ts";
import { type ElasticSource, keepTensors, shareTensors } from "./elastic_source.ts";
import { type GenerateOptions, greedy } from "./generate.ts";
import { createCache } from "./kv_cache.ts";
import { piecesOf } from "./prefill.ts";
import { createPrograms, type ElasticPrograms } from "./programs.ts";
import { type SequenceLength, type SessionMemory, sessionMemory } from "./session_memory.ts";
import { runPiece } from "./step.ts";
import { vocabularyOf } from "./vocabulary.ts";

/** One sequence on an elastic model. Calls must not overlap. */
export interface Session extends AsyncDisposable {
  /** Tokens in the cache. */
  readonly length: number;
  /** The longest context, in tokens. */
  readonly contextLimit: number;
  /** Widths of all sites. */
  readonly config: BitConfig;
  /** What was planned at the start, if a length was given. */
  readonly memory: SessionMemory | undefined;
  /**
   * Changes the precision from the next token on.
   *
   * @throws {UserError} if the model cannot run at it, or if it changes a width of cached values while there are some; the session then
   *   is as it was. Where what it was made of cannot be read any more, it has ended.
   */
  use(precision: Precision): Promise<void>;
  /**
   * Appends tokens, at least one.
   *
   * @returns logits of the token that follows
   * @throws {UserError} if the context would exceed the model's, or an id is none of its vocabulary
   */
  prefill(ids: ArrayLike<number>): Promise<Float32Array>;
  /** Appends one token; see `prefill`. */
  decode(id: number): Promise<Float32Array>;
  /** Appends a prompt and yields the most likely continuation, token by token; see `greedy`. */
  generate(prompt: ArrayLike<number>, options?: GenerateOptions): AsyncGenerator<number>;
  /** Forgets all tokens. */
  clear(): void;
}

/** What a session makes ready before its weights are on the backend. */
export interface SessionStart {
  /**
   * How long the sequence is going to be: programs are compiled, memory is planned, and the cache gets its room at once. It may become
   * longer nevertheless.
   */
  readonly length?: SequenceLength;
  /** Is told what was planned, before any weight is on the backend. */
  readonly planned?: (memory: SessionMemory) => void;
  /**
   * Keeps what switches read, masters and the adapters of the widths that were used, on the backend: 1.3 bytes per weight and more.
   * Switches then take a fraction of the time, as they read no file.
   */
  readonly resident?: boolean;
}

/** What to open. */
export interface SessionOptions extends SessionStart {
  /** The folder of an artifact. */
  readonly folder: Folder;
  readonly backend: Backend;
  /** Precision at the start; full unless given. */
  readonly precision?: Precision;
}

/**
 * Opens an artifact and makes it ready to run.
 *
 * @throws {UserError} if the artifact is damaged or cannot run at that precision
 */
export async function openSession(
  { folder, backend, precision = "16", ...start }: SessionOptions,
): Promise<Session> {
  return await createSession(artifactSource(await openArtifact(folder), createRunner(backend)), precision, start);
}

/** A session on any elastic model; see `openSession`. */
export async function createSession(
  model: ElasticSource,
  precision: Precision = "16",
  { length, planned, resident = false }: SessionStart = {},
): Promise<Session> {
  const kept = resident ? keepTensors(model) : undefined, source = kept?.source ?? shareTensors(model);
  const { runner, module, sites } = source;
  const programs = sharedPrograms(module, source.scheme, runner.backend);
  const cache = createCache(runner), vocabulary = vocabularyOf(module);
  let config = configurationOf(source, precision), hasEnded = false;
  if (length) checkLength(length.tokens, source.contextLimit);
  const [first] = module.calls, startOf = callPrecisions(source, config);
  // The first weights come from the disk while programs are compiled.
  if (first) readCallAhead(source, programs, first, startOf(first));
  const memory = length && await sessionMemory({ source, programs, config, resident }, length);
  if (memory) planned?.(memory);
  let calls: readonly ConfiguredCall[] = [];
  const end = (): void => {
    hasEnded = true;
    cache.clear();
    for (const call of calls) call.free();
    calls = [];
    kept?.free();
  };
  try {
    for (const [i, call] of module.calls.entries()) {
      const next = module.calls[i + 1];
      const atLast = () => next && readCallAhead(source, programs, next, startOf(next));
      calls = [...calls, await configureCall(source, programs, call, startOf(call), atLast)];
    }
    if (length) await cache.reserve(length.tokens, calls.slice(0, -1).map(({ step }) => step));
  } catch (error) {
    end();
    throw error;
  }
  const demandOpen = (): void => {
    if (hasEnded) throw new TypeError("Cannot use the session: it has ended");
  };
  const switchTo = async (wanted: BitConfig): Promise<void> => {
    const precisionOf = callPrecisions(source, wanted);
    for (const [i, configured] of calls.entries()) {
      calls = calls.with(i, await configured.switchTo(precisionOf(configured.call)));
    }
  };

  const use = async (next: Precision): Promise<void> => {
    demandOpen();
    const wanted = configurationOf(source, next);
    const changed = sites.find(({ name, role }) =>
      (role === "key" || role === "value") && wanted[name] !== config[name]
    );
    if (changed && cache.length > 0) {
      throw new UserError({
        what: `Expected ${config[changed.name]} bits for ${quote(changed.name)}, as its cache has, but found ${
          wanted[changed.name]
        }`,
        mend: "keep the width of cached values, or clear the session first",
      });
    }
    if (changed) cache.clear();
    try {
      await switchTo(wanted);
    } catch (error) {
      // Some calls may have switched: all of them go back, or none is left.
      await switchTo(config).catch(end);
      throw error;
    }
    config = wanted;
  };

  const prefill = async (ids: ArrayLike<number>): Promise<Float32Array> => {
    demandOpen();
    if (ids.length === 0) throw new RangeError("Expected at least one token but found none");
    checkIds(ids, vocabulary);
    const total = cache.length + ids.length;
    if (total > source.contextLimit) {
      throw new UserError({
        what: `Expected at most ${source.contextLimit} tokens, the model's context, but found ${total}`,
        mend: "use a shorter text",
      });
    }
    let logits: Float32Array = new Float32Array();
    const pieces = piecesOf(ids.length), before = cache.length;
    try {
      for (const [i, piece] of pieces.entries()) {
        logits = await runPiece({ source, calls, cache }, ids, piece, { wantsLogits: i === pieces.length - 1 });
      }
    } catch (error) {
      // Without room to grow the cache is lost: what followed would be of another text.
      if (cache.length < before) end();
      throw error;
    }
    return logits;
  };

  const session: Session = {
    get length() {
      return cache.length;
    },
    get config() {
      return config;
    },
    contextLimit: source.contextLimit,
    memory,
    use,
    prefill,
    decode: (id) => prefill([id]),
    generate: (prompt, options) => greedy(session, prompt, options),
    clear: () => cache.clear(),
    [Symbol.asyncDispose]: () => {
      if (!hasEnded) end();
      return Promise.resolve();
    },
  };
  return session;
}

function checkLength(tokens: number, limit: number): void {
  if (tokens <= limit) return;
  throw new UserError({
    what: `Expected a length of at most ${limit} tokens, the model's context, but found ${tokens}`,
    mend: "plan a shorter sequence",
  });
}

interface KnownPrograms {
  readonly scheme: QuantizationScheme;
  readonly stack: boolean;
  readonly halves: boolean;
  readonly programs: ElasticPrograms;
}

const programsOf = new WeakMap<Module, KnownPrograms>();

/** Programs of a module's sessions: equal graphs, which a runner compiles once, for one session after another. */
function sharedPrograms(
  module: Module,
  scheme: QuantizationScheme,
  { dearLaunches: stack = false, halves = false }: Backend,
): ElasticPrograms {
  const known = programsOf.get(module);
  if (known?.scheme === scheme && known.stack === stack && known.halves === halves) return known.programs;
  const programs = createPrograms(module, scheme, { cache: true, stack, halves });
  programsOf.set(module, { scheme, stack, halves, programs });
  return programs;
}
