/** @file Planned memory as a line for people. */
import type { CompilationMemory } from "../compilation_memory.ts";
import type { EvaluationMemory } from "../evaluation_memory.ts";
import type { SessionMemory } from "../session_memory.ts";

/** `memory: planned peak 83.0 MiB (calibration 57.1 MiB with 45.1 MiB on the host, measuring 83.0 MiB)`. */
export const compilationMemoryText = ({ calibration, measuring, total }: CompilationMemory): string =>
  `memory: planned peak ${mebibytes(total)} (calibration ${mebibytes(calibration.total)} with ${
    mebibytes(calibration.host.total)
  } on the host, measuring ${mebibytes(measuring.total)})`;

/** `memory: planned peak 3.9 MiB (weights 0.4 MiB, cache 1.1 MiB, programs 2.0 MiB)`. */
export const sessionMemoryText = ({ weights, cache, values, arena, scratch, total }: SessionMemory): string =>
  `memory: planned peak ${mebibytes(total)} (weights ${mebibytes(weights)}, cache ${mebibytes(cache)}, programs ${
    mebibytes(values + arena + scratch)
  })`;

/** `memory: planned peak 3.9 MiB (weights of a call 0.4 MiB, hidden states 1.1 MiB, programs 2.0 MiB, gaps 0.1 MiB)`. */
export const evaluationMemoryText = ({ weights, hidden, arena, scratch, gaps, total }: EvaluationMemory): string =>
  `memory: planned peak ${mebibytes(total)} (weights of a call ${mebibytes(weights)}, hidden states ${
    mebibytes(hidden)
  }, programs ${mebibytes(arena + scratch)}, gaps ${mebibytes(gaps)})`;

/** `12.0 MiB`, `1,234 MiB`. */
function mebibytes(bytes: number): string {
  const size = bytes / 2 ** 20;
  return `${size < 100 ? size.toFixed(1) : Math.round(size).toLocaleString("en-US")} MiB`;
}
