#!/usr/bin/env node
/**
 * One process of the demo's workload: an ordinary program that knows nothing of Holdfast.
 *   worker.js ROLE FOLDER [FOLDER2]
 * It times every system call and checks every answer. It writes each report as one JSON line to stdout. On stdin,
 * {"stop":true} ends it in order, and {"phase":"..."} starts a new count of the longest pause.
 */

import { mkdirSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { Meter } from './meter.js';
import { ROLES, type RoleName } from './roles.js';

export interface WorkerReport {
  readonly operations: number;
  readonly errors: readonly string[];
  /** Longest call by phase: name of the call and milliseconds. */
  readonly longest: Readonly<Record<string, { readonly call: string; readonly ms: number }>>;
  readonly done: boolean;
  /** Only in the last report: what the role has verified. */
  readonly verified?: string;
}

const REPORT_EVERY_MS = 200;

async function main(): Promise<void> {
  const [roleName, folder, other] = process.argv.slice(2);
  const make = ROLES[roleName as RoleName];
  if (make === undefined || folder === undefined) throw new Error(`usage: worker.js ROLE FOLDER [FOLDER2]`);
  const meter = new Meter();
  let stopping = false;
  createInterface({ input: process.stdin })
    .on('line', (line) => {
      const message = JSON.parse(line) as { stop?: boolean; phase?: string };
      if (message.phase !== undefined) meter.phase = message.phase;
      if (message.stop === true) stopping = true;
    })
    .on('close', () => {
      stopping = true;
    });
  const report = (done: boolean, verified?: string): void => {
    const line: WorkerReport = {
      operations: meter.operations,
      errors: meter.errors,
      longest: meter.longest,
      done,
      ...(verified === undefined ? {} : { verified }),
    };
    process.stdout.write(`${JSON.stringify(line)}\n`);
  };
  mkdirSync(folder, { recursive: true });
  const role = make(meter, folder, other ?? folder);
  let reportedAt = 0;
  while (!stopping && meter.errors.length === 0) {
    try {
      role.step();
    } catch (thrown) {
      meter.fail(`${roleName}: ${(thrown as Error).message}`);
    }
    if (performance.now() - reportedAt > REPORT_EVERY_MS) {
      reportedAt = performance.now();
      report(false);
    }
    // Between two rounds the process reads its stdin.
    await new Promise((resolve) => setImmediate(resolve));
  }
  let verified = '';
  try {
    verified = role.finish();
  } catch (thrown) {
    meter.fail(`${roleName}: ${(thrown as Error).message}`);
  }
  report(true, verified);
  process.stdin.destroy();
}

void main();
