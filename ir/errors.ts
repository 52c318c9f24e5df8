/**
 * @file The one error class a user is meant to read. What goes wrong inside Vernier itself is an ordinary `Error` whose
 * text starts with "Internal error"; the command line prints a `UserError` as one line and exits with its code.
 */

/** What went wrong, where, and what the user can do about it; each a phrase without a final period. */
export interface UserProblem {
  /** What was expected and what was found, a sentence that starts with a capital. */
  readonly what: string;
  /** The file, line or option at fault, where there is one. */
  readonly where?: string;
  /** What to do, in the imperative. */
  readonly mend?: string;
}

/** A mistake in what the user gave: message of one line, no stack worth showing, exit code 2. */
export class UserError extends Error {
  override readonly name = "UserError";
  readonly exitCode = 2;
  readonly problem: UserProblem;

  /** Words the three fields as `<what>, in <where>; <mend>`. */
  constructor(problem: UserProblem, options?: ErrorOptions) {
    const { what, where, mend } = problem;
    super(oneLine(what + (where ? `, in ${where}` : "") + (mend ? `; ${mend}` : "")), options);
    this.problem = problem;
  }
}

/** A value as it may stand in a message: JSON, cut to 80 characters, so that a hostile name cannot flood the screen. */
export function quote(value: unknown): string {
  const text = JSON.stringify(value) ?? String(value);
  return text.length <= 80 ? text : `${text.slice(0, 76)}…${text.startsWith('"') ? '"' : ""}`;
}

/** Names and values come from untrusted files: line breaks, escape sequences and bidirectional marks are written out. */
function oneLine(text: string): string {
  return text.replace(
    /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/gu,
    (mark) => `\\u{${(mark.codePointAt(0) ?? 0).toString(16)}}`,
  );
}
