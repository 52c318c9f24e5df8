/**
 * @file Multiple-choice tasks in the log-likelihood manner: the choice whose continuation the model finds most likely, as a sum
 * (`acc`), or per character of the choice (`acc_norm`).
 */
import type { Task } from "../compiler/frontends/tasks.ts";
import type { Tokenizer } from "../compiler/frontends/tokenizer.ts";
import { scorePassages } from "./evaluate.ts";
import type { Scorer } from "./forward.ts";
import { continuationOf } from "./passages.ts";

/** What a model makes of a task. */
export interface TaskScore {
  readonly task: string;
  /** The file that the task was read from. */
  readonly file: string;
  readonly items: number;
  /** Parts of the items that are right. */
  readonly acc: number;
  readonly accNorm: number;
  /** Standard errors of both: √(p·(1 - p)/(n - 1)). */
  readonly accError: number;
  readonly accNormError: number;
  /** Log-likelihood of every choice, and what is chosen by sum and by length, per item. */
  readonly answers: readonly TaskAnswer[];
}

/** What is chosen in one item. */
export interface TaskAnswer {
  readonly logLikelihoods: readonly number[];
  readonly chosen: number;
  readonly chosenNorm: number;
}

/** How tasks are run. */
export interface TaskOptions {
  readonly scorer: Scorer;
  readonly tokenizer: Tokenizer;
  /** Most tokens of context and continuation. */
  readonly limit: number;
}

/** Answers a task. */
export async function answerTask(task: Task, { scorer, tokenizer, limit }: TaskOptions): Promise<TaskScore> {
  const passages = task.items.flatMap(({ pairs }) =>
    pairs.map(({ context, continuation }) => continuationOf(tokenizer, context, continuation, limit))
  );
  const losses = await scorePassages(scorer, passages);
  let at = 0;
  const answers = task.items.map(({ pairs, lengths }): TaskAnswer => {
    const logLikelihoods = pairs.map(() => -(losses[at++] ?? NaN));
    return {
      logLikelihoods,
      chosen: largest(logLikelihoods),
      chosenNorm: largest(logLikelihoods.map((value, i) => value / Math.max(1, lengths[i] ?? 1))),
    };
  });
  const share = (right: (answer: TaskAnswer, gold: number) => boolean) =>
    answers.filter((answer, i) => right(answer, task.items[i]?.gold ?? -1)).length / answers.length;
  const acc = share(({ chosen }, gold) => chosen === gold),
    accNorm = share(({ chosenNorm }, gold) => chosenNorm === gold);
  const error = (p: number) => answers.length < 2 ? NaN : Math.sqrt(p * (1 - p) / (answers.length - 1));
  return {
    task: task.name,
    file: task.file,
    items: answers.length,
    acc,
    accNorm,
    accError: error(acc),
    accNormError: error(accNorm),
    answers,
  };
}

/** Index of the largest value; of equal ones the first. */
const largest = (values: readonly number[]): number =>
  values.reduce((best, value, i) => value > (values[best] ?? -Infinity) ? i : best, 0);
