/** What a part of the audit is. Each reads Xen as the plan would leave it, and tells what is not right as a problem of the plan. */
import { closedList } from '../../xen/list.js';
import type { StepContext } from '../step.js';

export interface AuditPart {
  /** What it looks at; ends "... cannot be read". */
  readonly name: string;
  /** Steps whose result it decides about, so that one that gave up need not have the plan refused. */
  readonly answersFor?: readonly string[];
  run(context: StepContext): void;
}

/** Follows a list that has to be closed. @returns its nodes */
export function auditList({ plan, xen }: StepContext, head: bigint, name: string): readonly bigint[] {
  const { nodes, broken } = closedList(xen.memory, head);
  if (broken !== undefined) plan.problem(`${name}: ${broken}`);
  return nodes;
}
