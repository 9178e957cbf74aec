/** What is looked at, as the part of the address behind #: a link to it shares the view, without the picture. */

export interface View {
  model: string;
  /** Label that is explained; empty for the model's first. */
  label: string;
  /** Label that it is compared with; empty for none. */
  against: string;
  /** Head that stays in view, as "0.2" for head 2 of encoder 0; empty for none. */
  head: string;
  silenced: string[];
}

export const NOTHING: View = { model: "", label: "", against: "", head: "", silenced: [] };

const HEAD = /^\d{1,4}\.\d{1,4}$/;

export function readView(fragment: string): View {
  const fields = new URLSearchParams(fragment.replace(/^#/, ""));
  const field = (name: string) => fields.get(name) ?? "";
  const head = field("head");
  const label = field("label");
  const against = field("against");
  return {
    model: field("model"),
    label,
    against: against === label ? "" : against,
    head: HEAD.test(head) ? head : "",
    silenced: [
      ...new Set(
        field("silenced")
          .split(",")
          .filter((each) => HEAD.test(each)),
      ),
    ],
  };
}

export function writeView(view: View): string {
  const fields = new URLSearchParams();
  for (const name of ["model", "label", "against", "head"] as const) if (view[name]) fields.set(name, view[name]);
  if (view.silenced.length) fields.set("silenced", view.silenced.join(","));
  const text = fields.toString().replaceAll("%2C", ",");
  return text && `#${text}`;
}
