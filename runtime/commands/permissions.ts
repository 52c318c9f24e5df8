/** @file Deno's permissions, asked about and never asked for: a program that waits at a prompt is no use in a script. */
import { quote, UserError } from "../../ir/errors.ts";

/**
 * Demands that a permission is granted already.
 *
 * @param purpose what it is for, in the infinitive: `read "model"`
 * @throws {UserError} naming the flag that grants it
 */
export async function demandPermission(permission: Deno.PermissionDescriptor, purpose: string): Promise<void> {
  if ((await Deno.permissions.query(permission)).state === "granted") return;
  throw new UserError({
    what: `Cannot ${purpose}: Deno was not given the permission`,
    mend: `run with -P${
      permission.name === "ffi" || permission.name === "env" ? "=dawn" : ""
    } or with --allow-${permission.name}`,
  });
}

/** Demands that a path may be read. */
export const demandRead = (path: string): Promise<void> =>
  demandPermission({ name: "read", path }, `read ${quote(path)}`);

/** Demands that a folder may be written, and read: files in it are renamed and looked at. */
export async function demandWrite(path: string): Promise<void> {
  await demandPermission({ name: "write", path }, `write ${quote(path)}`);
  await demandRead(path);
}

/** Whether anything may be written at all. */
export const mayWrite = async (): Promise<boolean> =>
  (await Deno.permissions.query({ name: "write" })).state === "granted";
