/**
 * What rounding alone does to a checkpoint, without any calibration: perplexity and divergence at every width.
 *
 *     deno run --allow-read examples/round_to_nearest.ts [MODEL TEXT]
 */
import {
  checkpointSource,
  createRunner,
  defaultRecipe,
  localFolder,
  openCheckpoint,
  openTokenizer,
  openWasm,
  parseBitSpecs,
  readTexts,
  scoreSettings,
  settingOf,
  tokenizeTexts,
} from "../mod.ts";

const bundled = new URL("./models/world", import.meta.url).pathname;
const [path = bundled, text = `${bundled}/evaluation.jsonl`] = Deno.args;
const folder = await localFolder(path), checkpoint = await openCheckpoint(folder);
const sequences = tokenizeTexts(await readTexts(text), await openTokenizer(folder), { maxTokens: 256 });
await using backend = await openWasm({ threads: 2 });
const source = checkpointSource(checkpoint, createRunner(backend), defaultRecipe("weights", 0));

await scoreSettings({
  reference: source,
  settings: parseBitSpecs("16,2-8").map((spec) => settingOf(source, spec)),
  sequences,
  report: ({ bits, perplexity, kl }) =>
    console.log(`${bits.padEnd(4)} perplexity ${perplexity.toFixed(4)}, KL ${kl.toFixed(5)}`),
});
