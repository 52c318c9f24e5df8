/** llama.cpp in WebAssembly (wllama), the peer of whole models on a CPU. */
import type { DecoderConfig } from "../../../compiler/frontends/config.ts";
import { medianOf, type PeerMedian } from "../report.ts";
import { randomGguf } from "./gguf.ts";

/** What is used of the package. */
interface Wllama {
  loadModel(files: readonly Blob[], options: Readonly<Record<string, unknown>>): Promise<void>;
  createCompletion(options: Readonly<Record<string, unknown>>): Promise<{
    readonly timings: { readonly predicted_per_second: number };
  }>;
  exit(): Promise<void>;
}

const VERSION = "3.13.0", ROUNDS = 3, TOKENS = 24;
/** ONNX Runtime, once loaded, puts Node's in its place. */
const OwnWorker = globalThis.Worker;

/**
 * Tokens per second of decoding a model of random weights in Q4_0 on one thread (more need classic workers, which Deno does not have);
 * undefined, after a message, where that is impossible.
 */
export async function wllamaDecode(config: DecoderConfig): Promise<PeerMedian | undefined> {
  const restore = lookLikeBrowser();
  try {
    const name = `@wllama/wllama@${VERSION}`;
    // Not a literal: neither type checks nor tests should fetch the package.
    const { Wllama } = await import(`npm:${name}`);
    const wasm = await (await fetch(import.meta.resolve(`npm:${name}/esm/wasm/wllama.wasm`))).bytes();
    const server = Deno.serve(
      { port: 0, onListen: () => {} },
      () => new Response(wasm, { headers: { "content-type": "application/wasm" } }),
    );
    const quiet = { debug: () => {}, log: () => {}, warn: () => {}, error: console.error };
    const peer: Wllama = new Wllama({ default: `http://localhost:${server.addr.port}/wllama.wasm` }, {
      suppressNativeLog: true,
      logger: quiet,
      cacheManager: {},
    });
    await peer.loadModel([new Blob([randomGguf(config)])], { n_ctx: 512, n_threads: 1, n_gpu_layers: 0 });
    const rates: number[] = [];
    for (let round = 0; round < ROUNDS; round++) {
      const { timings } = await peer.createCompletion({
        prompt: "word300 word301",
        max_tokens: TOKENS,
        ignore_eos: true,
        temperature: 0,
      });
      rates.push(timings.predicted_per_second);
    }
    await peer.exit();
    await server.shutdown();
    return { name: `wllama ${VERSION}, Q4_0`, median: medianOf(rates) };
  } catch (error) {
    console.error(`SKIPPED wllama: ${String(error).split("\n")[0]}`);
    return undefined;
  } finally {
    restore();
  }
}

/** The package wants a page's address, and takes a worker in which there is a process for one of Node. */
function lookLikeBrowser(): () => void {
  const { Blob, Worker } = globalThis, scope = globalThis as { document?: unknown };
  globalThis.Worker = OwnWorker;
  globalThis.Blob = class extends Blob {
    constructor(parts: BlobPart[] = [], options?: BlobPropertyBag) {
      const script = typeof parts[0] === "string" && options?.type?.includes("javascript");
      super(script ? ["delete globalThis.process;\nglobalThis.process = undefined;\n", ...parts] : parts, options);
    }
  };
  scope.document = { baseURI: import.meta.url };
  return () => {
    globalThis.Blob = Blob;
    globalThis.Worker = Worker;
    delete scope.document;
  };
}
