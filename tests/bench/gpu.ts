/**
 * Benchmarks on a GPU: `deno run -A tests/bench/gpu.ts [--json | --markdown] [--only kernels|models] [--match PATTERN] [--layers N]
 * [--hidden N]`. Ceilings are measured first, in the same process; a PyTorch decode of the same shape beside ours where python3
 * has torch with CUDA.
 */
import { parseArgs } from "@std/cli/parse-args";
import { createBackend } from "../../backends/webgpu/backend.ts";
import { openDevice } from "../../backends/webgpu/device.ts";
import { benchKernels } from "./gpu/kernels.ts";
import { benchCalibration } from "./gpu/calibration.ts";
import { measureRoofline } from "./gpu/roofline.ts";
import { benchModels } from "./models/models.ts";
import { SEVEN_B } from "./models/random_source.ts";
import { benchLine, comparedWith, createReport, type PeerMedian, refuseUnknown } from "./report.ts";

const options = parseArgs(Deno.args, {
  unknown: refuseUnknown,
  boolean: ["json", "markdown"],
  string: ["only", "match", "layers", "hidden"],
});
const report = createReport(options.json ? "json" : options.markdown ? "markdown" : "text");
const layers = Number(options.layers ?? SEVEN_B.layers), hidden = Number(options.hidden ?? SEVEN_B.hiddenSize);
const config = {
  ...SEVEN_B,
  layers,
  hiddenSize: hidden,
  heads: Math.max(1, hidden / SEVEN_B.headDim),
  kvHeads: Math.max(1, hidden / SEVEN_B.headDim),
  intermediateSize: Math.round(SEVEN_B.intermediateSize * hidden / SEVEN_B.hiddenSize / 32) * 32,
  vocabSize: Math.round(SEVEN_B.vocabSize * Math.min(1, hidden / SEVEN_B.hiddenSize)),
};

/** Decodes and copies with PyTorch; nothing where there is none. */
async function askPyTorch(): Promise<Readonly<Record<string, PeerMedian>>> {
  const script = new URL("./peers/gpu_decode.py", import.meta.url).pathname;
  const shape = JSON.stringify({
    layers,
    hidden,
    intermediate: config.intermediateSize,
    heads: config.heads,
    vocab: config.vocabSize,
  });
  try {
    const { success, stdout, stderr } = await new Deno.Command("python3", { args: [script, shape] }).output();
    const text = new TextDecoder();
    if (!success) throw new Error(text.decode(stderr).trim().split("\n").at(-1));
    return JSON.parse(text.decode(stdout).trim().split("\n").at(-1) ?? "{}");
  } catch (error) {
    console.error(`SKIPPED PyTorch: ${error instanceof Error ? error.message : error}`);
    return {};
  }
}

const peers = options.only === "kernels" ? {} : await askPyTorch();
const opened = await openDevice(navigator.gpu);
console.error(`${opened.adapter}${opened.software ? " (software)" : ""}, Deno ${Deno.version.deno}`);
const roofline = await measureRoofline(opened.gpu, opened.software);
const ceilings: [string, number, string][] = [
  ["copy, bytes read and written", roofline.copy / 1e9, "GB/s"],
  ["read", roofline.read / 1e9, "GB/s"],
  ["f32 multiply-add", roofline.f32 / 1e12, "TFLOP/s"],
  ["int8 dot of four", roofline.int8 / 1e12, "TOP/s"],
  ["dispatch", roofline.dispatch * 1e6, "us"],
  ["submission", roofline.submit * 1e6, "us"],
  ["readback", roofline.readback * 1e6, "us"],
];
for (const [name, median, unit] of ceilings) {
  report(benchLine({ name, backend: "webgpu", threads: 0, median, unit }, comparedWith(median, peers[name])));
}
const backend = createBackend(opened), match = new RegExp(options.match ?? "");
if (options.only !== "models") await benchKernels(backend, roofline, report, match);
if (options.only !== "kernels") {
  const model = `LLaMA-7B shape of ${layers} layers`;
  const rivals = Object.fromEntries(Object.entries(peers).map(([what, peer]) => [what, [peer]]));
  await benchModels({ backend, threads: 0, config, model, roofline, prompts: [512, 2048], peers: rivals, report });
  try {
    await benchCalibration(backend, config, roofline, report);
  } catch (error) {
    console.error(`calibration: ${error instanceof Error ? error.message : error}`);
  }
}
Deno.exit(0);
