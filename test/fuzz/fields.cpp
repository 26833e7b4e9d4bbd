#include "runtime/base/fields.h"

#include "test/fuzz/fuzz.h"

FUZZ(fields) {
  auto fields = sock::Fields::Parse(input);
  if (!fields.ok()) return;
  // What was read is written as it was.
  auto packet = fields->Serialize();
  CHECK(packet.ok() && *packet == input);
  (void)fields->GetNumber("serial");
  size_t count = 0;
  for (const auto& [name, value] : fields->list()) count += name == "module";
  CHECK(fields->GetAll("module").size() == count);
}
