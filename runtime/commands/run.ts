/** @file Continuing a prompt with a checkpoint or an artifact at one setting, greedily. */
import { createRunner } from "../../backends/runner.ts";
import { parseBitSpec, withPins } from "../../compiler/bit_spec.ts";
import { parseDecoderConfig } from "../../compiler/frontends/config.ts";
import { checkIds } from "../../compiler/frontends/dataset.ts";
import { checkContext } from "../../compiler/frontends/decoder.ts";
import { openTokenizer } from "../../compiler/frontends/tokenizer.ts";
import { quote, UserError } from "../../ir/errors.ts";
import { createSession } from "../session.ts";
import { vocabularyOf } from "../vocabulary.ts";
import { deviceText, openDevice } from "./devices.ts";
import { type Host, openModel } from "./host.ts";
import { openSource } from "./models.ts";
import { sessionMemoryText } from "./memory_text.ts";
import type { RunOptions } from "./options.ts";

/**
 * Prints the prompt and what follows it, as it is generated.
 *
 * @throws {UserError} on anything wrong with what was given
 */
export async function runCommand(
  { model, prompt, bits, pins, maxTokens, json, ...device }: RunOptions,
  host: Host,
): Promise<void> {
  const [spec = parseBitSpec(bits)] = withPins([parseBitSpec(bits)], pins),
    folder = await openModel(model, host),
    tokenizer = await openTokenizer(folder);
  const config = parseDecoderConfig(await folder.read("config.json"), `${folder.name}/config.json`);
  await using backend = await openDevice({ ...device, note: host.progress.line });
  const source = (await openSource(folder, createRunner(backend)))(spec),
    ids = tokenizer.encode(prompt);
  checkIds(ids, vocabularyOf(source.module));
  if (ids.length === 0) {
    throw new UserError({
      what: `Expected a prompt of at least one token but found ${quote(prompt)}`,
      mend: "give some text to --prompt",
    });
  }
  checkContext(config, ids.length);
  await using session = await createSession(source, spec, {
    length: { prompt: ids.length, tokens: Math.min(ids.length + maxTokens, source.contextLimit) },
    planned: (memory) => host.progress.line(sessionMemoryText(memory)),
  });
  const stream = tokenizer.stream(ids), write = json ? () => {} : host.write, start = performance.now();
  let text = "", tokens = 0;
  write(prompt);
  for await (const id of session.generate(ids, { maxTokens, stop: [...config.eosTokenIds, ...tokenizer.eosIds] })) {
    const piece = stream.push(id);
    write(piece);
    text += piece;
    tokens++;
  }
  const rest = stream.end(), seconds = (performance.now() - start) / 1000;
  write(`${rest}\n`);
  if (json) host.print(JSON.stringify({ bits: spec.text, prompt, text: text + rest, tokens, seconds }));
  const pace = `${tokens} tokens in ${seconds.toFixed(2)} s, compilation of programs included`;
  host.progress.line(`${folder.name} at ${spec.text} on ${deviceText(backend)}: ${pace}`);
}
