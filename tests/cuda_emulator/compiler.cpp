// NVRTC over the emulated card: what it compiles is the text itself, from which the driver takes the types of parameters.
// Declared here, since its header need not be installed.
#include <cstring>
#include <string>

#define API extern "C" __attribute__((visibility("default"))) nvrtcResult

enum nvrtcResult { NVRTC_SUCCESS };
struct Program {
    std::string text;
};
using nvrtcProgram = Program*;

API nvrtcVersion(int* major, int* minor) { return *major = 13, *minor = 0, NVRTC_SUCCESS; }
extern "C" __attribute__((visibility("default"))) const char* nvrtcGetErrorString(nvrtcResult) { return "emulated"; }
API nvrtcCreateProgram(nvrtcProgram* made, const char* text, const char*, int, const char* const*, const char* const*) {
    return *made = new Program{text}, NVRTC_SUCCESS;
}
API nvrtcDestroyProgram(nvrtcProgram* program) { return delete *program, *program = nullptr, NVRTC_SUCCESS; }
API nvrtcCompileProgram(nvrtcProgram, int, const char* const*) { return NVRTC_SUCCESS; }
API nvrtcGetProgramLogSize(nvrtcProgram, size_t* size) { return *size = 1, NVRTC_SUCCESS; }
API nvrtcGetProgramLog(nvrtcProgram, char* log) { return *log = 0, NVRTC_SUCCESS; }
API nvrtcGetCUBINSize(nvrtcProgram program, size_t* size) { return *size = program->text.size() + 1, NVRTC_SUCCESS; }
API nvrtcGetCUBIN(nvrtcProgram program, char* code) {
    return memcpy(code, program->text.c_str(), program->text.size() + 1), NVRTC_SUCCESS;
}
