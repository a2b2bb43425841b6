plugins {
    id("com.android.library")
    id("org.jetbrains.kotlin.android")
}

// The folder that `mbv3c compile` wrote: gradle -Pbundle=/path/to/bundle assemble
val bundle = providers.gradleProperty("bundle").orElse(rootDir.resolve("bundle").path)

android {
    namespace = "mbv3c.example"
    compileSdk = 35

    defaultConfig {
        minSdk = 24
        ndk {
            // A bundle is for one kind of processor.
            abiFilters += "arm64-v8a"
        }
        externalNativeBuild {
            cmake {
                arguments += "-DBUNDLE=${bundle.get()}"
            }
        }
    }

    externalNativeBuild {
        cmake {
            path = file("src/main/cpp/CMakeLists.txt")
        }
    }

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }
    kotlinOptions {
        jvmTarget = "17"
    }
}
