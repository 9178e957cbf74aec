import { render } from "preact";
import { Server } from "./api";
import { App } from "./app";
import "./parts.css";
import "./style.css";

const page = document.getElementById("page");
if (page) render(<App server={new Server(new URL("../v1/", location.href))} />, page);
