/**
 * Those who do not belong, in the demo: a user without privilege who speaks the protocol, and a client with a key that nobody has
 * made. Both have to be refused.
 */

import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import type { ClientUuid, Transno, Xid } from '../../base/ids.js';
import { nodeRuntime } from '../../runtime/node_runtime.js';
import { tcpTransport } from '../../runtime/node_tcp.js';
import type { Address } from '../../runtime/ports.js';
import { encodeHeader, HEADER_SIZE, KIND, PROTOCOL_MAX, PROTOCOL_MIN } from '../../wire/header.js';
import { ErrorReply } from '../../wire/operation.js';
import { decode, encode } from '../../wire/schema.js';
import { Connect, FEATURES_ALL } from '../../wire/session.js';
import { CliError } from '../failure.js';

const NOBODY = 65_534;
const PATIENCE_MS = 5000;

/** Whom the demo sends, and what the server says to them. @throws CliError if one of them gets in. */
export async function tryStrangers(server: Address): Promise<readonly string[]> {
  return [
    `user ${NOBODY} of this host asks to be administrator: refused (${await asUser(server)})`,
    `a client shows a key that nobody has made: refused (${await withMadeUpKey(server)})`,
  ];
}

/** A program of another user: all that it has is Node, and the bytes of a CONNECT. */
async function asUser({ host, port }: Address): Promise<string> {
  const program = `
    const socket = require('node:net').connect(${port}, ${JSON.stringify(host)});
    const chunks = [];
    socket.on('data', (chunk) => chunks.push(chunk));
    socket.on('close', () => process.stdout.write(Buffer.concat(chunks).toString('base64')));
    socket.on('error', () => undefined);
    socket.setTimeout(${PATIENCE_MS}, () => socket.destroy());
    socket.end(Buffer.from('${connectFrame().toString('base64')}', 'base64'));
  `;
  const child = spawn(process.execPath, ['-e', program], {
    cwd: '/',
    uid: NOBODY,
    gid: NOBODY,
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  const chunks: Buffer[] = [];
  child.stdout.on('data', (chunk: Buffer) => chunks.push(chunk));
  await new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  const answer = Buffer.from(Buffer.concat(chunks).toString('latin1'), 'base64');
  if (answer.length <= HEADER_SIZE) return 'the connection was closed';
  try {
    return decode(ErrorReply, answer.subarray(HEADER_SIZE)).text;
  } catch (cause) {
    throw new CliError(`user ${NOBODY} was let in`, 1, { cause });
  }
}

function connectFrame(): Buffer {
  const body = encode(Connect.request, {
    uuid: nodeRuntime().rng.uuid() as ClientUuid,
    name: 'stranger',
    protocolMin: PROTOCOL_MIN,
    protocolMax: PROTOCOL_MAX,
    features: FEATURES_ALL,
    softwareVersion: 'unknown',
    connCount: 1,
    role: 'admin',
  });
  const header = encodeHeader({
    version: PROTOCOL_MIN,
    kind: KIND.request,
    opcode: Connect.opcode,
    flags: 0,
    errno: 0,
    xid: 1 as Xid,
    ackXidOrCommitted: 1,
    connCount: 1,
    transno: 0 as Transno,
    bodyLength: body.length,
    bulkLength: 0,
  });
  return Buffer.concat([header, body]);
}

async function withMadeUpKey(server: Address): Promise<string> {
  const credentials = { kind: 'key', identity: '0123456789abcdef', key: randomBytes(32) } as const;
  // Through TCP, as from another host: through the Unix socket root of this one needs no key.
  const transport = tcpTransport('addon');
  const ignored = { data: () => undefined, drain: () => undefined, closed: () => undefined };
  let connection: Awaited<ReturnType<typeof transport.connect>>;
  try {
    connection = await transport.connect(server, () => ignored, { timeoutMs: PATIENCE_MS, credentials });
  } catch (error) {
    return (error as Error).message;
  }
  connection.destroy();
  throw new CliError('a client with a made-up key was let in');
}
