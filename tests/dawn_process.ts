/**
 * Computes on Dawn and says what came out, as a line of JSON. A process of its own for the reason that `tint_process.ts` has: at the
 * end of a program that has loaded Dawn, found an adapter or not, memory is now and then corrupted, after all tests have passed.
 */
import { openDawn } from "../backends/webgpu/dawn.ts";
import { createBuilder } from "../ir/builder.ts";
import { UserError } from "../ir/errors.ts";
import { graphOf } from "../ir/node.ts";
import { tensorType } from "../ir/types.ts";
import { runGraph } from "./support/run_graph.ts";

/** What x + 1 is on Dawn for x = 1 … 5, or the one line that tells why there is no Dawn. */
export interface DawnAnswer {
  readonly found?: readonly number[];
  readonly reason?: string;
}

async function compute(): Promise<DawnAnswer> {
  try {
    await using backend = await openDawn();
    const b = createBuilder(), graph = graphOf({ y: b.add(b.input("x", tensorType("f32", [5])), 1) });
    const { y = [] } = await runGraph(backend, graph, { x: Float64Array.of(1, 2, 3, 4, 5) });
    return { found: [...y] };
  } catch (error) {
    if (error instanceof UserError) return { reason: error.message };
    throw error;
  }
}

if (import.meta.main) {
  console.log(JSON.stringify(await compute()));
  Deno.exit(0);
}
