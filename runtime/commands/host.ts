/** @file What commands find around them: the bundled model, and where their words go. */
import { readTexts, type TextData } from "../../compiler/frontends/dataset.ts";
import { type Folder, localFolder } from "../../compiler/frontends/source.ts";
import { demandRead } from "./permissions.ts";
import type { Progress } from "./progress.ts";

/** The model that stands for none given, with its texts; all in memory, so that it needs no permission. */
export interface BundledModel {
  readonly folder: Folder;
  readonly calibration: TextData;
  readonly evaluation: TextData;
}

/** The surroundings of a command. */
export interface Host {
  readonly bundled: BundledModel;
  /** Prints a line of results to stdout. */
  print(line: string): void;
  /** Prints text to stdout as it is, without a line end. */
  write(text: string): void;
  readonly progress: Progress;
}

/** The folder of a model, or the bundled one. */
export async function openModel(path: string | undefined, { bundled }: Host): Promise<Folder> {
  if (path === undefined) return bundled.folder;
  await demandRead(path);
  return await localFolder(path);
}

/** Texts of a file. */
export async function openTexts(path: string): Promise<TextData> {
  await demandRead(path);
  return await readTexts(path);
}
