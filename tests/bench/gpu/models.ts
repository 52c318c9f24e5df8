/** Whole models of LLaMA-7B's shape on a GPU: decoding, prefill, switching, and optimiser steps of one block. */
import type { Backend } from "../../../backends/backend.ts";
import type { DecoderConfig } from "../../../compiler/frontends/config.ts";
import { modelSites } from "../../../compiler/model_sites.ts";
import { createSession } from "../../../runtime/session.ts";
import { type BenchLine, benchLine, comparedWith, medianOf, type PeerMedian } from "../report.ts";
import { benchCalibration } from "./calibration.ts";
import { randomSource } from "./random_source.ts";
import type { GpuRoofline } from "./roofline.ts";

/** What a peer measured in the same run, by name of the line. */
export type Peers = Readonly<Record<string, PeerMedian>>;

const TOKENS = 16, PROMPTS = [512, 2048];

/** Times everything, a line each; what fails is reported and does not stop the rest. */
export async function benchModels(
  backend: Backend,
  config: DecoderConfig,
  roofline: GpuRoofline,
  peers: Peers,
  report: (line: BenchLine) => void,
): Promise<void> {
  const source = randomSource(backend, config, "weights");
  const weights = modelSites(source.module).reduce((sum, { parameters }) => sum + parameters, 0);
  const head = config.vocabSize * config.hiddenSize;
  const line = (name: string, median: number, unit: string, share: number | null): BenchLine => {
    const peer = peers[name] ?? peers[name.replace(/ at \d bits$/, "")];
    const more = { roofline: share, ...comparedWith(median, peer) };
    return benchLine({ name, backend: "webgpu", threads: 0, median, unit }, more);
  };
  const start = performance.now();
  await using session = await createSession(source, "8");
  console.error(`opened at 8 bits in ${((performance.now() - start) / 1000).toFixed(1)} s`);
  const random = (count: number) => Int32Array.from({ length: count }, (_, i) => i * 7919 % config.vocabSize);
  let at = 8;
  for (const width of [8, 4, 3, 2]) {
    try {
      if (width !== at) {
        const before = performance.now();
        await session.use(String(width));
        await session.prefill(random(1));
        session.clear();
        const seconds = (performance.now() - before) / 1000;
        // Adapters cost two operations per weight and column; the master is read and the codes are written.
        const { rank } = source.scheme.adapters.uses[width as 2];
        const bound = Math.max(weights * (1 + width / 8) / roofline.copy, 2 * rank * weights / roofline.f32);
        report(line(`switch of the whole model, ${at} to ${width} bits`, seconds, "s", bound / seconds));
        at = width;
      }
      await session.prefill(random(64));
      for (let i = 0; i < 3; i++) await session.decode(i);
      const times: number[] = [];
      for (let i = 0; i < TOKENS; i++) {
        const before = performance.now();
        await session.decode(i);
        times.push((performance.now() - before) / 1000);
      }
      const bytes = weights * width / 8 + head * 4, seconds = medianOf(times);
      report(line(`decode at ${width} bits`, 1 / seconds, "tokens/s", bytes / seconds / roofline.read));
      session.clear();
      for (const prompt of width === 4 ? PROMPTS : []) {
        if (prompt > config.maxPositions) continue;
        await session.prefill(random(prompt));
        session.clear();
        const before = performance.now();
        await session.prefill(random(prompt));
        const took = (performance.now() - before) / 1000;
        session.clear();
        const share = 2 * weights * prompt / took / roofline.f32;
        report(line(`prefill of ${prompt} tokens at ${width} bits`, prompt / took, "tokens/s", share));
      }
    } catch (error) {
      console.error(`at ${width} bits: ${error instanceof Error ? error.message : error}`);
    }
  }
  try {
    await benchCalibration(backend, config, roofline, report);
  } catch (error) {
    console.error(`calibration: ${error instanceof Error ? error.message : error}`);
  }
}
