/** Whole models of random weights on any backend: decoding, prefill, and switching. */
import type { Backend } from "../../../backends/backend.ts";
import type { DecoderConfig } from "../../../compiler/frontends/config.ts";
import { modelSites } from "../../../compiler/model_sites.ts";
import { createSession, type Session } from "../../../runtime/session.ts";
import { type BenchLine, benchLine, medianOf, type PeerMedian } from "../report.ts";
import { randomSource } from "./random_source.ts";

/** What peers measured in the same run, by what was measured, with or without the width. */
export type Peers = Readonly<Record<string, readonly PeerMedian[]>>;

/** What is timed, and where. */
export interface ModelBench {
  readonly backend: Backend;
  /** Threads, or 0 on a GPU. */
  readonly threads: number;
  readonly config: DecoderConfig;
  /** What lines call the model. */
  readonly model: string;
  /** Bytes and operations per second. */
  readonly roofline: { readonly read: number; readonly f32: number };
  /** Operations per second of a large product, measured when it is called: what a switch is compared with. The ceiling unless given. */
  readonly productSpeed?: () => number;
  /** Lengths of prompts, at 4 bits. */
  readonly prompts: readonly number[];
  readonly peers: Peers;
  readonly report: (line: BenchLine) => void;
}

const TOKENS = 16, CONTEXT = 64, WIDTHS = [8, 4, 3, 2] as const, SWITCHES = 5;

/** Times everything, a line each; what fails is reported and does not stop the rest. */
export async function benchModels(bench: ModelBench): Promise<void> {
  const { backend, threads, config, model, roofline, prompts, peers, report } = bench;
  const productSpeed = bench.productSpeed ?? (() => roofline.f32);
  const source = randomSource(backend, config, "weights");
  const weights = modelSites(source.module).reduce((sum, { parameters }) => sum + parameters, 0);
  // Ten bits a value; see insert_tables.ts.
  const head = config.vocabSize * config.hiddenSize * 10 / 8;
  const line = (what: string, median: number, unit: string, share: number): void => {
    const own = benchLine({ name: `${what}, ${model}`, backend: backend.name, threads, median, unit }, {
      roofline: share,
    });
    const rivals = [...new Set([what, what.replace(/ at \d bits$/, "")])].flatMap((key) => peers[key] ?? []);
    if (rivals.length === 0) report(own);
    for (const { name: peer, median: other } of rivals) {
      report({ ...own, peer, ratio: unit === "s" ? other / median : median / other });
    }
  };
  const start = performance.now();
  await using session = await createSession(source, "8");
  console.error(`opened at 8 bits in ${((performance.now() - start) / 1000).toFixed(1)} s`);
  const random = (count: number) => Int32Array.from({ length: count }, (_, i) => i * 7919 % config.vocabSize);
  for (const width of WIDTHS) {
    try {
      const switches = await timeSwitches(session, threads, width, productSpeed),
        { rank } = source.scheme.adapters.uses[width];
      // The master is read and codes are written; adapters cost two operations per weight and column.
      const shares = switches.map(({ seconds, speed }) =>
        Math.max(weights * (1.25 + width / 8) / roofline.read, 2 * rank * weights / speed) / seconds
      );
      const seconds = medianOf(switches.map((each) => each.seconds));
      line(`switch of the whole model to ${width} bits`, seconds, "s", medianOf(shares));
      const decoding = await decodeSeconds(session, random(CONTEXT)), bytes = weights * width / 8 + head;
      line(`decode at ${width} bits`, 1 / decoding, "tokens/s", bytes / decoding / roofline.read);
      for (const prompt of width === 4 ? prompts : []) {
        if (prompt > config.maxPositions) continue;
        await session.prefill(random(prompt));
        session.clear();
        const before = performance.now();
        await session.prefill(random(prompt));
        const took = (performance.now() - before) / 1000;
        session.clear();
        const share = 2 * weights * prompt / took / roofline.f32;
        line(`prefill of ${prompt} tokens at ${width} bits`, prompt / took, "tokens/s", share);
      }
    } catch (error) {
      console.error(`at ${width} bits: ${error instanceof Error ? error.message : error}`);
    }
  }
}

/** Switches from another width, after one that compiles; masters stay on the backend (see `randomSource`). */
async function timeSwitches(
  session: Session,
  threads: number,
  width: number,
  productSpeed: () => number,
): Promise<{ readonly seconds: number; readonly speed: number }[]> {
  const found: { seconds: number; speed: number }[] = [], other = width === 8 ? "4" : "8";
  for (let round = -1; round < SWITCHES; round++) {
    await session.use(other);
    await session.prefill([0]);
    session.clear();
    const before = performance.now();
    await session.use(String(width));
    let seconds = (performance.now() - before) / 1000;
    await session.prefill([0]);
    if (threads === 0) {
      // On a GPU work has only been submitted so far: a token waits for it, and another one tells what a token costs.
      const switched = performance.now();
      await session.decode(0);
      seconds = (switched - before - (performance.now() - switched)) / 1000;
    }
    // Beside the switch, since the speed of machines changes from one second to the next.
    if (round >= 0) found.push({ seconds, speed: productSpeed() });
    session.clear();
  }
  return found;
}

/** Seconds of a token behind a prompt. */
async function decodeSeconds(session: Session, prompt: Int32Array): Promise<number> {
  await session.prefill(prompt);
  for (let i = 0; i < 3; i++) await session.decode(i);
  const times: number[] = [];
  for (let i = 0; i < TOKENS; i++) {
    const before = performance.now();
    await session.decode(i);
    times.push((performance.now() - before) / 1000);
  }
  session.clear();
  return medianOf(times);
}
