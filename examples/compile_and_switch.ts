/**
 * Compiles the bundled model briefly, then writes one story while its precision falls from 8 to 2 bits in mid-sentence.
 *
 *     deno run --allow-read examples/compile_and_switch.ts
 */
import {
  artifactSource,
  compileModel,
  createRunner,
  createSession,
  localFolder,
  openTokenizer,
  openWasm,
  readTexts,
} from "../mod.ts";

const path = new URL("./models/world", import.meta.url).pathname;
const model = await localFolder(path);
await using backend = await openWasm({ threads: 2 });

const { artifact } = await compileModel({
  model,
  backend,
  calibration: await readTexts(`${path}/calibration.jsonl`),
  evaluation: await readTexts(`${path}/evaluation.jsonl`),
  settings: { epochs: 1, sequences: 8 },
  report: (event) => {
    if (event.kind === "result") {
      console.log(`${event.row.bits.padEnd(6)} perplexity ${event.row.perplexity.toFixed(4)}`);
    }
  },
});

const tokenizer = await openTokenizer(model), prompt = tokenizer.encode("In a small town there was");
// Resident: what switches read stays in memory, here the artifact's own, too; leave it out for the least memory.
await using session = await createSession(artifactSource(artifact, createRunner(backend)), "8", { resident: true });
const text = tokenizer.stream(prompt);
let line = "In a small town there was";
for await (const id of session.generate(prompt, { maxTokens: 60 })) {
  line += text.push(id);
  // The cache is kept: the next token is computed with other weights from what was read before.
  if (session.length === prompt.length + 20) await session.use("mixed@3.5");
  if (session.length === prompt.length + 40) await session.use("2");
}
console.log(line + text.end());
