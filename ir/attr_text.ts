/** The textual form of attribute values: JSON, but for the numbers that JSON does not know. */
import type { Attr, Attrs } from "./node.ts";

/** `-0.5`, `1e+30`, `-0`, `inf`, `-inf` or `nan`: reads back as the very same number. */
export function numberText(value: number): string {
  if (Object.is(value, -0)) return "-0";
  if (Number.isNaN(value)) return "nan";
  if (!Number.isFinite(value)) return value > 0 ? "inf" : "-inf";
  return String(value);
}

/** One value: numbers as `numberText`, texts quoted, flags `true` or `false`, lists as `[0,1,"B*T"]`. */
export function attrText(value: Attr): string {
  if (typeof value === "number") return numberText(value);
  return typeof value === "object" ? `[${value.map(attrText).join()}]` : JSON.stringify(value);
}

/** All attributes sorted by name, `axis=0, transposed=true`; absent ones are left out. */
export function attrsText(attrs: Attrs): string {
  const present = Object.entries(attrs).filter(([, value]) => value !== undefined);
  return present.sort(([a], [b]) => a < b ? -1 : 1).map(([name, value]) => `${name}=${attrText(value)}`).join(", ");
}

const BARE = /^[A-Za-z_][\w.]*$/;

/** A name as it stands in texts: bare where that is unambiguous, otherwise quoted. */
export const nameText = (name: string): string => BARE.test(name) ? name : JSON.stringify(name);
