#include "zygote/learning.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sock::zygote {
namespace {

TEST(Learning, ModulesOfFiles) {
  for (auto [path, module] : {
           std::pair{"/usr/lib/python3/dist-packages/numpy/__init__.py", "numpy"},
           {"/usr/local/lib/python3.11/site-packages/numpy/core/__pycache__/multiarray.cpython-311.pyc",
            "numpy.core.multiarray"},
           {"/usr/local/lib/python3.11/site-packages/six.py", "six"},
           {"/venv/lib/python3.12/site-packages/__pycache__/six.cpython-312.opt-1.pyc", "six"},
           {"/venv/lib64/python3.12/site-packages/_cffi_backend.cpython-312-x86_64-linux-gnu.so",
            "_cffi_backend"},
           {"/venv/lib/python3.12/site-packages/google/protobuf/__pycache__/__init__.cpython-312.pyc",
            "google.protobuf"},
           {"/usr/lib/python3.11/http/__pycache__/server.cpython-311.pyc", "http.server"},
           {"/usr/lib/python3.11/lib-dynload/_json.cpython-311-x86_64-linux-gnu.so", "_json"},
           {"/usr/lib/python3.11/json/__init__.py", "json"},
           {"/app/main.py", ""},
           {"/app/__pycache__/main.cpython-311.pyc", ""},
           {"/usr/lib/python3/dist-packages/numpy.libs/libopenblas64_p-r0-0cf96a72.3.23.dev.so", ""},
           {"/usr/lib/python3/dist-packages/numpy-1.26.dist-info/METADATA", ""},
           {"/usr/lib/python3/dist-packages/gunicorn/__main__.py", ""},
           {"/usr/lib/python3/dist-packages/a-b/c.py", ""},
           {"/usr/lib/python3.11/sitecustomize.py", ""},
           {"/usr/lib/python3.11/site.py", ""},
           {"/usr/lib/python3.11/encodings/__pycache__/utf_8.cpython-311.pyc", ""},
           {"/usr/lib/python3.11/collections/__init__.py", ""},
           {"/usr/lib/python3.11/test/support.py", ""},
           {"/home/python3.9x/lib/a.py", ""},
           {"/usr/lib/python3.11", ""},
           {"/", ""},
           {"", ""},
       })
    EXPECT_EQ(ModuleOfFile(path), module) << path;
}

}  // namespace
}  // namespace sock::zygote
