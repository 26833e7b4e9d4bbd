// An image with this machine's Python, for tests.
#pragma once

#include <map>
#include <string>

#include "test/e2e/node.h"

namespace sock::test {

// Pushes it to the node's registry and pulls it: python3 with its standard library, and `modules` (name to
// source) among its packages, and setuid-python, a copy that is root's by its mode; `install`, if any, is a
// shell command that puts more packages into the folder which comes as its last argument. The image's name;
// empty, with the test failed, on trouble.
std::string PushPython(Node& node, const std::map<std::string, std::string>& modules,
                       const std::string& install = "");

// Pushes an image of one layer, the root file system in `tar`, and pulls it; its name, "" after a failure.
std::string PushTar(Node& node, const std::string& tar, const std::string& name);

}  // namespace sock::test
