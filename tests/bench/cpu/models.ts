/** A LLaMA of 110 million parameters on the WebAssembly backend, beside llama.cpp and our own half as many threads. */
import { openWasm } from "../../../backends/wasm/backend.ts";
import { benchModels, type Peers } from "../models/models.ts";
import { benchFileSwitches } from "../models/random_artifact.ts";
import { HUNDRED_M } from "../models/random_source.ts";
import { wllamaDecode } from "../models/wllama.ts";
import { type BenchLine, medianOf, type PeerMedian } from "../report.ts";
import { openGraph, product } from "./graphs.ts";
import { type CpuRoofline, measureCpu } from "./roofline.ts";

/** What to measure, and against what. */
export interface CpuModelBench {
  readonly threads: number;
  readonly roofline: CpuRoofline;
  readonly withPeers: boolean;
  readonly report: (line: BenchLine) => void;
}

const MODEL = "LLaMA 110M", PROMPTS = [256];
/** The product whose speed bounds a switch, and how often it runs to tell it. */
const PRODUCT = { m: 256, n: 2048, k: 2048 }, ROUNDS = 3;

/** Operations per second of the product, whenever it is called. */
async function openProduct(threads: number) {
  const { m, n, k } = PRODUCT, { run, close } = await openGraph(product(PRODUCT), threads);
  const speed = (): number => {
    const times = Array.from({ length: ROUNDS }, () => {
      const start = performance.now();
      run();
      return (performance.now() - start) / 1000;
    });
    return 2 * m * n * k / medianOf(times);
  };
  speed();
  return { speed, close };
}

/** Times the model; of half as many threads only what the ratios need is kept. */
export async function benchCpuModels({ threads, roofline, withPeers, report }: CpuModelBench): Promise<void> {
  const peers: Record<string, readonly PeerMedian[]> = {};
  const add = (what: string, peer: PeerMedian) => peers[what] = [...peers[what] ?? [], peer];
  const run = async (count: number, limits: CpuRoofline, known: Peers, print: (line: BenchLine) => void) => {
    await using backend = await openWasm({ threads: count });
    const common = { config: HUNDRED_M, model: MODEL, prompts: PROMPTS };
    const { speed, close } = await openProduct(count), timed = { roofline: limits, productSpeed: speed };
    await benchModels({ ...common, ...timed, backend, threads: count, peers: known, report: print });
    await close();
  };
  const half = Math.floor(threads / 2), wllama = withPeers && half <= 1 ? await wllamaDecode(HUNDRED_M) : undefined;
  if (wllama) add("decode at 4 bits", wllama);
  if (half >= 1) {
    const name = `ours on ${half} thread${half > 1 ? "s" : ""}`, found: [string, PeerMedian][] = [];
    await run(half, measureCpu(half), { ...peers }, (line) => {
      // The peer runs on one thread alone.
      if (line.peer !== null) report(line);
      found.push([line.name.replace(`, ${MODEL}`, ""), { name, median: line.median }]);
    });
    delete peers["decode at 4 bits"];
    for (const [what, peer] of found) add(what, peer);
  }
  await run(threads, roofline, peers, report);
  await benchFileSwitches(HUNDRED_M, MODEL, threads, report);
}
