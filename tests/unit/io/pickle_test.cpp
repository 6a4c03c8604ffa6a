#include "io/pickle.h"

#include "io/safetensors.h"
#include "support/support.h"
#include "unit/io/safetensors_bytes.h"

namespace mmtune::io {
namespace {

TEST(Pickle, IsRefusedWithTheCommandThatConvertsIt) {
  const test::TempFolder folder;
  const std::string message =
      test::error_of([&] { SafetensorsFile::open(folder.write("pytorch_model.bin", "PK\x03\x04 and so on, for more than a few bytes")); });
  EXPECT_NE(message.find("pytorch_model.bin: pickled checkpoints are not read"), std::string::npos) << message;
  EXPECT_NE(message.find("weights_only=True"), std::string::npos) << message;
  EXPECT_NE(message.find("model.safetensors')\""), std::string::npos) << message;
}

TEST(Pickle, EveryFormatOfPyTorchIsRecognised) {
  const test::TempFolder folder;
  EXPECT_ERROR(SafetensorsFile::open(folder.write("a.pth", "\x80\x02}q\x00X.")), "a Python pickle");
  EXPECT_ERROR(SafetensorsFile::open(folder.write("b.pt", "\x80\x05\x95 frame")), "a Python pickle");
  EXPECT_ERROR(SafetensorsFile::open(folder.write("c.pt", std::string(257, 'n') + "ustar" + std::string(250, '\0'))), "a tar archive");
}

TEST(Pickle, TheContentDecidesNotTheName) {
  const test::TempFolder folder;
  EXPECT_NO_THROW(SafetensorsFile::open(folder.write("x.bin", test::safetensors_bytes("{}"))));
}

TEST(Pickle, AHeaderLengthThatLooksLikeAPickleIsNone) {
  // 0x0280 = 640 bytes of header: the file begins with 80 02.
  const test::TempFolder folder;
  std::string header = "{}";
  header.resize(0x280, ' ');
  EXPECT_NO_THROW(SafetensorsFile::open(folder.write("m.safetensors", test::safetensors_bytes(header))));
}

}  // namespace
}  // namespace mmtune::io
