/** The peers of single kernels: ONNX Runtime in WebAssembly, and its native build, whose kernels use wider instructions than WebAssembly has. */

/** What is used of either package. */
interface OnnxRuntime {
  readonly env: { readonly wasm: { numThreads?: number } };
  readonly InferenceSession: {
    create(model: Uint8Array, options: Readonly<Record<string, unknown>>): Promise<{
      run(feeds: Readonly<Record<string, unknown>>): Promise<unknown>;
    }>;
  };
  readonly Tensor: new (type: "float32", data: Float32Array, shape: readonly number[]) => unknown;
}

/** A peer that runs models. */
export interface Peer {
  readonly name: string;
  /** A model on a random input [m,k]; undefined, after a message, where the peer refuses it. */
  open(model: Uint8Array, m: number, k: number): Promise<(() => Promise<unknown>) | undefined>;
}

const VERSION = "1.30.0";

/** Both peers at a number of threads; those that cannot be loaded say so and are left out. */
export async function openPeers(threads: number): Promise<readonly Peer[]> {
  const peers: Peer[] = [];
  for (const kind of ["web", "node"] as const) {
    const name = `onnxruntime-${kind}`;
    try {
      // Not a literal: neither type checks nor tests should fetch the packages.
      const runtime: OnnxRuntime = await import(`npm:${name}@${VERSION}`);
      if (kind === "web") runtime.env.wasm.numThreads = threads;
      // Their threads would go on spinning while ours are timed.
      const extra = { session: { intra_op: { allow_spinning: "0" } } };
      const options = kind === "web" ? { executionProviders: ["wasm"], extra } : { intraOpNumThreads: threads, extra };
      peers.push({
        name: `${name} ${VERSION}`,
        open: async (model, m, k) => {
          try {
            const session = await runtime.InferenceSession.create(model, options);
            const data = Float32Array.from({ length: m * k }, () => Math.random() - 0.5);
            const x = new runtime.Tensor("float32", data, [m, k]);
            return () => session.run({ x });
          } catch (error) {
            console.error(`${name} refuses a model: ${String(error).split("\n")[0]}`);
            return undefined;
          }
        },
      });
    } catch (error) {
      console.error(`SKIPPED ${name}: ${String(error).split("\n")[0]}`);
    }
  }
  return peers;
}
