/** The backends that everything above them is tested on. */
import type { Backend } from "../../backends/backend.ts";
import { openReference } from "../../backends/reference/backend.ts";
import { openWasm } from "../../backends/wasm/backend.ts";

/** By name: the oracle, and what runs where there is no GPU. */
export const BACKENDS: Readonly<Record<string, () => Promise<Backend>>> = {
  reference: () => Promise.resolve(openReference()),
  wasm: () => openWasm(),
};
