/** Tests of names written back: a client that owns a directory, and what its programs do there without a request. */

import assert from 'node:assert/strict';
import type { TestContext } from 'node:test';
import type { Fh, Fid, Name } from '../../src/base/ids.js';
import type { ClientOptions } from '../../src/client/api.js';
import { type ClientWorld, clientWorld, O_CREAT, O_RDONLY, O_RDWR, type TestClient } from './client_world.js';

/** Two clients of one server. */
export interface Setting {
  readonly world: ClientWorld;
  readonly a: TestClient;
  readonly b: TestClient;
  /** An own directory of a, in the root. */
  readonly d: Fid;
}

export async function setting(t: TestContext, options: Partial<ClientOptions> = {}): Promise<Setting> {
  const world = await clientWorld(t);
  const b = await world.client('b');
  const a = await world.client('a', options);
  return { world, a, b, d: await a.mkdir('d') };
}

/** The answer that was there in the turn of the call. */
export function atOnce<T>(answer: T | Promise<T>): T {
  assert.ok(!(answer instanceof Promise), 'it asked the server');
  return answer;
}

export const nameOf = (text: string): Name => text as Name;

export function create(
  a: TestClient,
  parent: Fid,
  name: string,
  flags = O_RDWR | O_CREAT,
): { fid: Fid; fh: Fh } {
  const made = atOnce(
    a.fs.createAndOpen(a.op, parent, nameOf(name), { mode: 0o100644, umask: 0o022 }, flags),
  );
  return { fid: made.known.attr.fid, fh: made.fh };
}

/** A file with content, closed. */
export async function put(
  a: TestClient,
  parent: Fid,
  name: string,
  content: string | Uint8Array,
): Promise<Fid> {
  const file = create(a, parent, name);
  await a.write(file, 0, content);
  await a.close(file);
  return file.fid;
}

export function mkdir(a: TestClient, parent: Fid, name: string): Fid {
  return atOnce(a.fs.create(a.op, parent, nameOf(name), { mode: 0o040755, umask: 0 })).attr.fid;
}

export function rename(a: TestClient, parent: Fid, name: string, newParent: Fid, newName: string): void {
  atOnce(a.fs.rename(a.op, parent, nameOf(name), newParent, nameOf(newName), 0));
}

export async function textOf(client: TestClient, parent: Fid, name: string): Promise<string> {
  const file = await client.open(name, O_RDONLY, parent);
  const text = await client.text(file);
  await client.close(file);
  return text;
}
