/** @file Planned memory as a line for people. */
import type { CalibrationMemory } from "../../compiler/calibrate/memory.ts";

/** `memory: planned peak 57.1 MiB (block 12.0 MiB, host 45.1 MiB)`; the first part is the function that needs most. */
export const calibrationMemoryText = ({ peak, host, total }: CalibrationMemory): string =>
  `memory: planned peak ${mebibytes(total)} (${peak.function} ${mebibytes(peak.total)}, host ${mebibytes(host.total)})`;

/** `12.0 MiB`, `1,234 MiB`. */
export function mebibytes(bytes: number): string {
  const size = bytes / 2 ** 20;
  return `${size < 100 ? size.toFixed(1) : Math.round(size).toLocaleString("en-US")} MiB`;
}
