import { describe, expect, it } from "vitest";
import { NOTHING, readView, type View, writeView } from "../src/view";

const VIEWS: View[] = [
  NOTHING,
  { model: "digits", label: "3", against: "8", head: "0.2", silenced: ["0.1", "12.3"] },
  { ...NOTHING, model: "tout & rien", label: "a=b#c", against: "ß, 日本 +" },
  { ...NOTHING, silenced: ["1.0"] },
];

describe("a link", () => {
  it.each(VIEWS)("gives the view that it was made of: %j", (view) => {
    expect(readView(writeView(view))).toEqual(view);
  });

  it("is empty where nothing is looked at", () => {
    expect(writeView(NOTHING)).toBe("");
  });

  it.each(["#head=x", "#head=1.2.3", "#silenced=a,,1", "#nothing", "#%", "#against=3&label=3"])(
    "that makes no sense asks for nothing: %s",
    (fragment) => {
      const { head, silenced, against } = readView(fragment);
      expect({ head, silenced, against }).toEqual({ head: "", silenced: [], against: "" });
    },
  );

  it("names each silenced head once", () => {
    expect(readView("#silenced=0.1,0.1,1.0").silenced).toEqual(["0.1", "1.0"]);
  });
});
